"""Convolutions of small maps against PyTorch's, in every precision, and every reason to take the ordinary kernel."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from splitveil.nn import fastconv, small_maps
from splitveil.nn.fastconv import FastConv2d, WinogradConv2d
from splitveil.nn.small_maps import conv3x3, pays


def problem(shape: tuple[int, ...], outputs: int, layout: torch.memory_format, dtype=torch.float64) -> list[Tensor]:
    """Leaves x, weight, bias and a gradient of the output."""
    rng = torch.Generator().manual_seed(0)
    sizes = shape, (outputs, shape[1], 3, 3), (shape[0], outputs, *shape[2:])
    x, w, dy = (torch.randn(s, generator=rng, dtype=dtype).contiguous(memory_format=layout) for s in sizes)
    bias = torch.randn(outputs, generator=rng, dtype=dtype)
    return [x.requires_grad_(), w.requires_grad_(), bias.requires_grad_(), dy]


def results(f, x: Tensor, w: Tensor, b: Tensor | None, dy: Tensor) -> list[Tensor]:
    y = f(x, w, b)
    return [y, *torch.autograd.grad(y, [t for t in (x, w, b) if t is not None], dy)]


def ordinary(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    return F.conv2d(x, w, b, padding=1)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.integers(1, 2)),
    outputs=st.integers(1, 4),
    layout=st.sampled_from([torch.channels_last, torch.contiguous_format]),
    with_bias=st.booleans(),
)
def test_equals_the_ordinary_convolution(shape, outputs, layout, with_bias):
    x, w, b, dy = problem(shape, outputs, layout)
    got = results(conv3x3, x, w, b if with_bias else None, dy)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    assert got[2].stride() == w.stride()
    for a, e in zip(got, results(ordinary, x, w, b if with_bias else None, dy), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_first_and_second_derivatives(size):
    x, w, b, _ = problem((2, 2, *size), 2, torch.channels_last)
    assert gradcheck(conv3x3, (x, w, b))
    assert gradgradcheck(conv3x3, (x, w, b))


@pytest.mark.parametrize("frozen", ["x", "w", "b"])
def test_skips_gradients_that_nobody_needs(frozen):
    leaves = dict(zip("xwb", problem((2, 3, 2, 2), 3, torch.channels_last)[:3], strict=True))
    leaves[frozen].requires_grad_(False)
    conv3x3(leaves["x"], leaves["w"], leaves["b"]).sum().backward()
    expected = {k: t.detach().clone().requires_grad_(k != frozen) for k, t in leaves.items()}
    ordinary(*expected.values()).sum().backward()
    assert leaves[frozen].grad is None
    for k in set("xwb") - {frozen}:
        torch.testing.assert_close(leaves[k].grad, expected[k].grad)


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("mixed", [True, False])
def test_a_layer_answers_and_learns_as_the_ordinary_one(side, mixed):
    x, w, _, dy = problem((64, 64, side, side), 96, torch.channels_last, torch.float32)
    plain = nn.Conv2d(64, 96, 3, padding=1).to(memory_format=torch.channels_last)
    plain.weight.data.copy_(w)
    fast = copy.deepcopy(plain)
    fastconv.accelerate(fast, winograd=False)
    found = []
    for layer in (plain, fast):
        pixels = x.detach().clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            y = layer(pixels)
        assert y.dtype == (torch.bfloat16 if mixed else torch.float32)
        y.backward(dy.to(y.dtype))
        grads = [t.grad for t in (pixels, *layer.parameters()) if t.grad is not None]
        assert [g.dtype for g in grads] == 3 * [torch.float32]
        found.append([y.float(), *grads])
    for e, a in zip(*found, strict=True):
        assert (a - e).norm() / e.norm() < (1e-2 if mixed else 1e-5)


def test_a_gradient_penalty_in_bfloat16_reaches_the_weights():
    layer, x = FastConv2d(64, 64, 3, padding=1), torch.randn(32, 64, 2, 2).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    (g,) = torch.autograd.grad(y.float().tanh().sum(), x, create_graph=True)
    g.square().sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.abs().sum() > 0


def test_several_gradients_at_once():
    x, w, b, _ = problem((3, 2, 2, 2), 2, torch.channels_last)
    eye = torch.eye(24, dtype=x.dtype).view(24, 3, 2, 2, 2)
    got, expected = (
        torch.autograd.grad(f(x, w, b), (x, w, b), eye, is_grads_batched=True) for f in (conv3x3, ordinary)
    )
    for a, e in zip(got, expected, strict=True):
        torch.testing.assert_close(a, e)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch.jit.trace
def test_layers_fall_back_where_the_product_is_not_allowed(monkeypatch):
    seen = []
    original = small_maps.conv3x3
    monkeypatch.setattr(small_maps, "conv3x3", lambda x, *a, **k: (seen.append(x.shape), original(x, *a, **k))[1])
    layer, x = FastConv2d(64, 64, 3, padding=1), torch.ones(32, 64, 2, 2)
    torch.func.vmap(layer)(x[None])
    torch.jit.trace(layer, x, check_trace=False)
    with forward_ad.dual_level():
        assert forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x))).tangent is not None
    assert copy.deepcopy(layer).double()(x.double()).dtype == torch.float64
    with torch.autocast("cpu", torch.float16):
        assert layer(x).dtype == torch.float16
    with pytest.raises(RuntimeError):
        layer(x.bfloat16())  # as the ordinary layer
    FastConv2d(64, 64, 3, padding=1, stride=2)(x)
    layer(x[0])
    layer(x[:31])
    layer(torch.ones(32, 64, 3, 3))
    assert layer(x[:0]).shape == (0, 64, 2, 2)
    copy.deepcopy(layer).to("meta")(x.to("meta"))
    assert seen == []
    layer(x)
    layer(x[:1, :, :1, :1])
    copy.deepcopy(layer).bfloat16()(x.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        layer(x.bfloat16())
        WinogradConv2d(64, 64, 3, padding=1)(x)
    assert seen == [x.shape, (1, 64, 1, 1), x.shape, x.shape, x.shape]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((32, 512, 2, 2), True),
        ((31, 512, 2, 2), False),  # the matrix costs more than it saves
        ((1, 512, 1, 1), True),
        ((32, 512, 1, 2), True),
        ((32, 512, 3, 2), False),
        ((0, 512, 2, 2), False),
        ((32, 512, 0, 2), False),
    ],
)
def test_rule_depends_on_shapes(shape, expected):
    assert pays(torch.Size(shape)) is expected


@pytest.mark.parametrize(("channels", "side", "count"), [(64, 8, 32), (64, 2, 32), (64, 1, 32)])
def test_a_relu_in_place_may_follow(channels, side, count):
    """What was returned was a view made inside an autograd function, which no layer may change in place."""
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    network = nn.Sequential(layer, nn.ReLU(inplace=True))
    x = torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    network(x).sum().backward()
    assert layer.weight.grad is not None
    expected = layer.weight.grad.clone()
    layer.weight.grad = None
    fastconv.accelerate(network)
    network(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-3, atol=1e-3)
