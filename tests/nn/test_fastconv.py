"""Winograd layers against PyTorch's convolution in float64, and every reason to take the ordinary kernel."""

from __future__ import annotations

import copy
import functools
import types

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from splitveil.nn import fastconv, processor, winograd
from splitveil.nn.fastconv import FastConv2d, WinogradConv2d, accelerate, conv3x3, pays, restore


def problem(
    shape: tuple[int, int, int, int],
    outputs: int,
    channels_last: bool = False,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Leaves x, weight, bias and a gradient of the output."""
    rng = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=rng, dtype=dtype)

    x, w, dy = draw(*shape), draw(outputs, shape[1], 3, 3), draw(shape[0], outputs, *shape[2:])
    x, w, dy = (t.contiguous(memory_format=layout) for t in (x, w, dy))
    return x.requires_grad_(), w.requires_grad_(), draw(outputs).requires_grad_(), dy


def results(f, x: Tensor, w: Tensor, b: Tensor | None, dy: Tensor) -> list[Tensor]:
    """The output and the gradients of all leaves."""
    y = f(x, w, b)
    return [y, *torch.autograd.grad(y, [t for t in (x, w, b) if t is not None], dy)]


def ordinary(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return F.conv2d(x, w, b, padding=1)


def used(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that reach Winograd's algorithm from now on."""
    seen = []
    original = fastconv.conv3x3
    monkeypatch.setattr(fastconv, "conv3x3", lambda x, w, b: (seen.append(x.shape), original(x, w, b))[1])
    return seen


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 13), st.integers(1, 13)),
    outputs=st.integers(1, 4),
    channels_last=st.booleans(),
    with_bias=st.booleans(),
    chunk=st.sampled_from([64, 4096, winograd.CHUNK_BYTES]),
)
def test_equals_the_ordinary_convolution(shape, outputs, channels_last, with_bias, chunk):
    x, w, b, dy = problem(shape, outputs, channels_last)
    bias = b if with_bias else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "CHUNK_BYTES", chunk)
        got = results(conv3x3, x, w, bias, dy)
    for a, e in zip(got, results(ordinary, x, w, bias, dy), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("side", [1, 2, 4, 8, 16])
def test_float32_error_is_below_1e_5(side):
    exact = problem((4, 64, side, side), 64)
    single = [t.detach().float().requires_grad_(t.requires_grad) for t in exact]
    x, w, b, dy = single
    for a, e in zip(results(conv3x3, x, w, b, dy), results(ordinary, *exact), strict=True):
        assert (a - e).norm() / e.norm() < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (2, 5), (3, 9)])
def test_first_and_second_derivatives(size):
    x, w, b, _ = problem((2, 2, *size), 2)
    assert gradcheck(conv3x3, (x, w, b))
    assert gradgradcheck(conv3x3, (x, w, b))


def test_gradient_penalty_reaches_the_weights():
    x, w, b, _ = problem((2, 3, 8, 8), 4)
    penalties = []
    for f in (conv3x3, ordinary):
        (g,) = torch.autograd.grad(f(x, w, b).tanh().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad((g.flatten(1).norm(dim=1) - 1).square().sum(), (x, w, b)))
    for a, e in zip(*penalties, strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("frozen", ["x", "w", "b"])
def test_skips_gradients_that_nobody_needs(frozen):
    leaves = dict(zip("xwb", problem((2, 3, 4, 4), 3)[:3], strict=True))
    leaves[frozen].requires_grad_(False)
    conv3x3(**{"x": leaves["x"], "weight": leaves["w"], "bias": leaves["b"]}).sum().backward()
    expected = {k: t.detach().clone().requires_grad_(k != frozen) for k, t in leaves.items()}
    ordinary(*expected.values()).sum().backward()
    assert leaves[frozen].grad is None
    for k in set("xwb") - {frozen}:
        torch.testing.assert_close(leaves[k].grad, expected[k].grad)


def test_weight_gradients_lie_like_the_weights_and_runs_repeat():
    for channels_last in (False, True):
        x, w, b, dy = problem((64, 64, 4, 4), 64, channels_last, torch.float32)
        first, second = results(conv3x3, x, w, b, dy), results(conv3x3, x, w, b, dy)
        assert first[2].stride() == w.stride()
        assert first[0].is_contiguous(memory_format=torch.channels_last)
        assert all(torch.equal(a, e) for a, e in zip(first, second, strict=True))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64),
        nn.Conv2d(64, 64, 3, padding=1, stride=2), nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 3),
        nn.Conv2d(64, 64, 3, padding=1, groups=2), nn.Conv2d(64, 64, 3, padding=2, dilation=2),
        nn.Conv2d(64, 64, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(64, 128, 3, padding="same", bias=False),
    )  # fmt: skip


def test_accelerate_swaps_eligible_layers_only_and_restore_undoes_it(monkeypatch):
    plain = network()
    fast = copy.deepcopy(plain)
    assert accelerate(fast, winograd=True) == 2
    assert accelerate(fast, winograd=True) == 0
    assert [i for i, m in enumerate(fast) if type(m) is WinogradConv2d] == [1, 9]
    assert list(fast.state_dict()) == list(plain.state_dict())
    seen = used(monkeypatch)
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fast(x), plain(x), rtol=1e-4, atol=1e-5)
    assert seen == [(64, 64, 8, 8), (64, 64, 2, 2)]
    plain.load_state_dict(fast.state_dict())
    assert restore(fast) == 2
    assert [type(m) for m in fast] == [type(m) for m in plain]


def test_accelerate_makes_the_layers_of_the_processor(monkeypatch):
    for worth, kind in ((True, WinogradConv2d), (False, FastConv2d)):
        monkeypatch.setattr(fastconv, "worth_it", lambda worth=worth: worth)
        fast = network()
        assert accelerate(fast) == 2
        assert [i for i, m in enumerate(fast) if type(m) is kind] == [1, 9]
        assert restore(fast) == 2


def test_subclasses_are_left_alone():
    class Own(nn.Conv2d):
        pass

    assert accelerate(nn.Sequential(Own(64, 64, 3, padding=1))) == 0


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.jit.trace
def test_layers_fall_back_where_winograd_is_not_allowed(monkeypatch):
    layer, x = WinogradConv2d(64, 64, 3, padding=1), torch.ones(64, 64, 4, 4)
    seen = used(monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    torch.func.vmap(layer)(x[None])
    torch.jit.trace(layer, x, check_trace=False)
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x))).tangent is not None
    assert copy.deepcopy(layer).double()(x.double()).dtype == torch.float64
    assert layer.to("meta")(x.to("meta")).shape == x.shape
    WinogradConv2d(64, 64, 3, padding=1, stride=2)(x)
    WinogradConv2d(64, 64, 3, padding=1)(x[0])
    assert seen == []
    WinogradConv2d(64, 64, 3, padding=1)(x)
    assert seen == [x.shape]


@pytest.mark.parametrize(
    ("shape", "outputs", "expected"),
    [
        ((128, 256, 8, 8), 256, True),
        ((128, 512, 2, 2), 512, True),
        ((32, 64, 4, 4), 64, True),
        ((31, 64, 4, 4), 64, False),  # few tiles
        ((128, 3, 8, 8), 64, False),  # few channels
        ((128, 64, 8, 8), 8, False),
        ((128, 64, 32, 32), 64, False),  # bound by memory
        ((128, 256, 5, 5), 256, False),  # tiles mostly empty
        ((0, 64, 4, 4), 64, False),
    ],
)
def test_rule_depends_on_shapes(shape, outputs, expected):
    assert pays(torch.Size(shape), outputs) is expected


@pytest.mark.parametrize(
    ("able", "expected"),
    [
        ({"avx2": True, "avx512_f": False, "amx_bf16": False}, True),
        ({"avx2": True, "avx512_f": True}, False),
        ({"avx2": True, "amx_bf16": True}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_worth_it_asks_for_the_arithmetic_units(monkeypatch, able, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert fastconv.worth_it() is expected


def test_an_older_torch_is_asked_function_by_function(monkeypatch):
    has = ("_is_avx2_supported", "_is_amx_tile_supported")
    older = {name: functools.partial(has.__contains__, name) for name in processor.NAMES.values()}
    monkeypatch.setattr(torch, "cpu", types.SimpleNamespace(**older))
    assert processor.capabilities() == {"avx2": True, "avx512_f": False, "avx512_bf16": False, "amx_bf16": True}
