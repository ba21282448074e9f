"""How a model shows itself, and what tells it from others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property, partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil.defenses.codec import codec_of
from splitveil.model import _bytes, digest_of
from splitveil.nn.copies import copy_of

X, Y = torch.rand(40, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


def made(*defenses: Any, middle: nn.Module | None = None, seed: int = 0) -> sv.SplitModel:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), middle or nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 2))
    return sv.split(net, at="1", example=X[:1], defenses=defenses)


def test_a_model_is_shown_in_a_line_and_one_for_each_defense():
    model = made(sv.Gaussian(0.1), sv.Adversarial(1.0))  # the second trains a network of its own
    head, first, second = repr(model).splitlines()
    assert head == (
        "SplitModel(cut after '1': images (3, 12, 12) -> wire (4, 3, 3), 144 bytes; 196 weights on the device, "
        "74 in the cloud)"
    )
    assert first == "  Gaussian(sigma=0.1)"
    assert second.startswith("  Adversarial(weight=1.0, ")
    assert "Conv2d" in repr(model.encoder)


def test_a_model_of_two_halves_and_one_without_an_example_say_so():
    halves = nn.Conv2d(3, 4, 4, 4), nn.Flatten()
    assert repr(sv.SplitModel(*halves, example=X[:1])).startswith("SplitModel(made of two halves: images (3, 12, 12)")
    assert "its shapes are not known, as it was made without an example" in repr(sv.SplitModel(*halves))
    sent = "196 weights on the device, 0 in the cloud)"
    assert repr(sv.SplitModel(*halves)).endswith(sent)


@pytest.mark.parametrize(
    "other",
    [
        lambda: made(sv.Gaussian(0.2)),  # no weight says how strong the noise is
        lambda: made(sv.Gaussian(0.1), sv.TopK(0.5)),
        lambda: made(sv.Gaussian(0.1), middle=nn.Tanh()),
        lambda: made(sv.Gaussian(0.1), seed=1),
        lambda: made(),
    ],
)
def test_a_digest_tells_models_apart_in_weights_layers_and_settings(other: Callable[[], sv.SplitModel]):
    assert digest_of(made(sv.Gaussian(0.1))) == digest_of(made(sv.Gaussian(0.1)))
    assert digest_of(other()) != digest_of(made(sv.Gaussian(0.1)))


def test_a_digest_stays_when_a_model_is_used_saved_and_read_back(tmp_path):
    model = made(sv.Gaussian(0.1))
    sv.fit(model, (X, Y), epochs=1, batch_size=20, progress=False)
    before = digest_of(model)
    sv.attack(model, "linear", learn_from=(X[:20], Y[:20]), invert=(X[20:], Y[20:]), progress=False)
    sv.save(model, tmp_path / "mine")
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 2))
    assert before == digest_of(model) == digest_of(sv.load(tmp_path / "mine", network=net).model)


@pytest.mark.parametrize("codec", ["uint4", "float16"])
def test_a_model_behind_a_codec_keeps_its_grid_when_it_is_saved_and_read_back(tmp_path, codec):
    model = made(sv.Gaussian(0.1))
    coded = sv.with_codec(model, codec, train=(X, Y))
    sv.save(coded, tmp_path / "coded")
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 2))
    read = sv.load(tmp_path / "coded", network=net).model
    assert digest_of(read) == digest_of(coded) != digest_of(model)
    assert read.bytes_sent == coded.bytes_sent == {"uint4": 18, "float16": 72}[codec]
    assert digest_of(sv.with_codec(read, "auto", train=(X, Y))) == digest_of(coded)  # it has one already
    assert codec_of(model.defense) is None


class Scaled(nn.Module):
    """Multiply by numbers that it does not print."""

    def __init__(self, k: Any = 1.0, hidden: int = 1, pair: tuple[int, ...] = (1,), act: Callable[..., Any] = abs):
        super().__init__()
        self.k, self._hidden, self.pair, self.act = k, hidden, pair, act
        self._seen: Any = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self._seen = x.mean()
        return x * self.k * self._hidden * self.pair[0]


@pytest.mark.parametrize(
    "other",
    [lambda: Scaled(100.0), lambda: Scaled("1.0"), lambda: Scaled(hidden=2), lambda: Scaled(pair=(2,)), nn.Sigmoid],
)
def test_a_digest_sees_plain_attributes_that_a_layer_does_not_print(other: Callable[[], nn.Module]):
    halves = nn.Conv2d(3, 4, 4, 4), nn.Flatten()

    def digest(middle: nn.Module) -> str:
        return digest_of(sv.SplitModel(nn.Sequential(halves[0], middle), halves[1]))

    assert digest(Scaled()) == digest(Scaled()) != digest(other())
    used = Scaled()
    used(X)  # keeps a tensor where None was
    assert digest(used) == digest(Scaled())


HALF = 0.5


def shift(x: torch.Tensor) -> torch.Tensor:
    return x + HALF


def by(step: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: x + step


def layer_of(code: str, **names: Any) -> Any:
    """A layer whose class has this code; all are called Own, and their files have other constants and functions."""
    space: dict[str, Any] = {"nn": nn, "__name__": "own", "HALF": HALF, "shift": shift, **names}
    exec(f"class Own(nn.Module):\n    step = 1\n    def forward(self, x):\n        return {code}", space)
    return space["Own"]


def with_member(kind: Any, *given: Any) -> Any:
    """A layer whose class has a member of a kind, such as a property, of a function."""
    return type("Own", (layer_of("self.member"),), {"member": kind(*given)})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: Scaled([1, 2]), lambda: Scaled([2, 1])),
        (lambda: Scaled({"k": [1, {2}]}), lambda: Scaled({"k": [1, {3}]})),
        (lambda: Scaled({"k": None}), lambda: Scaled({"k": 1})),
        (lambda: Scaled(act=torch.relu), lambda: Scaled(act=torch.tanh)),
        (lambda: Scaled(act=nn.functional.relu), lambda: Scaled(act=nn.functional.gelu)),
        (lambda: Scaled(act=lambda x: x + 1), lambda: Scaled(act=lambda x: x + 2)),
        (lambda: Scaled(act=by(1.0)), lambda: Scaled(act=by(2.0))),
        (lambda: Scaled(act=partial(torch.clamp, min=0)), lambda: Scaled(act=partial(torch.clamp, min=1))),
        (lambda: Scaled(act=nn.ReLU), lambda: Scaled(act=nn.Tanh)),
        (layer_of("x + 1"), layer_of("x - 1")),
        (layer_of("x + HALF"), layer_of("x + HALF", HALF=0.25)),
        (layer_of("[x + k for k in (1, 2)]"), layer_of("[x + k for k in (1, 3)]")),
        *((with_member(kind, by(1.0)), with_member(kind, by(2.0))) for kind in (property, cached_property)),
        *((with_member(kind, by(1.0)), with_member(kind, by(2.0))) for kind in (partialmethod, staticmethod)),
        (with_member(partialmethod, torch.add, 1), with_member(partialmethod, torch.add, 2)),
    ],
)
def test_a_digest_sees_containers_functions_and_code(one: Callable[[], nn.Module], other: Callable[[], nn.Module]):
    def digest(middle: nn.Module) -> str:
        return digest_of(sv.SplitModel(middle, nn.Flatten()))

    assert digest(one()) == digest(one()) != digest(other())


def test_a_digest_sees_the_code_of_a_function_of_the_same_file_and_of_a_base_class():
    def digest(kind: Any) -> str:
        return digest_of(sv.SplitModel(kind(), nn.Flatten()))

    spaces: list[dict[str, Any]] = [{"__name__": "own"}, {"__name__": "own"}]
    for space, sign in zip(spaces, "+-", strict=True):
        exec(f"def moved(x):\n    return x {sign} 1", space)
    assert len({digest(layer_of("moved(x)", moved=space["moved"])) for space in spaces}) == 2
    derived = [type("Derived", (layer_of(f"x {sign} 1"),), {}) for sign in "+-"]
    assert len({digest(kind) for kind in derived}) == 2
    steps = [type("Derived", (layer_of("x"),), {"step": step}) for step in (2, 3)]
    assert len({digest(kind) for kind in steps}) == 2


def test_a_digest_does_not_see_in_what_order_a_container_was_filled_and_what_a_layer_keeps_when_it_runs():
    def digest(middle: nn.Module) -> str:
        return digest_of(sv.SplitModel(middle, nn.Flatten()))

    assert digest(Scaled({"a": 1, "b": 2})) == digest(Scaled({"b": 2, "a": 1}))
    kept: list[Any] = [{}, {(1, 2): torch.ones(2)}, {(1, 2): torch.ones(3), "more": [nn.ReLU()]}]
    assert len({digest(Scaled(one)) for one in kept}) == 1
    itself: list[Any] = [1]
    itself.append(itself)
    assert digest(Scaled(itself))


def test_a_digest_is_the_same_in_every_process():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from test_models_shown import *\n"
        "held = {'a', 'b', 'c', ('d', 'e')}, {'f': by(0.5), 'g': partial(torch.clamp, min=0)}\n"
        'own = layer_of(\'shift(x) if x in {"k", "l", "m"} else [y for y in x]\')\n'
        "print(digest_of(sv.SplitModel(nn.Sequential(Scaled(held, act=shift), own()), nn.Flatten())))"
    )
    here = [str(Path(__file__).parent), *sys.path]
    found = {
        subprocess.run(
            [sys.executable, "-c", code, *here],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


@pytest.mark.parametrize("defenses", [(), (sv.Gaussian(0.1), sv.TopK(0.5)), (sv.Gaussian(0.1), sv.Adversarial(1.0))])
@pytest.mark.parametrize(
    "middle", [Scaled, nn.Sigmoid, lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))]
)
def test_a_digest_is_that_of_a_model_however_it_is_used(tmp_path, middle, defenses):
    model = made(*defenses, middle=middle()).eval()
    before = digest_of(model)
    handle = model.register_forward_hook(lambda *_: None)
    model(X[:3]).sum().backward()
    assert digest_of(model) == before
    handle.remove()
    model.eval().to("cpu").requires_grad_(False)
    assert digest_of(model) == before
    mode = model.train().training
    assert mode
    assert digest_of(model) == before == digest_of(copy_of(model))
    sv.save(model, tmp_path / "mine")
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), middle(), nn.Flatten(), nn.Linear(36, 2))
    assert digest_of(sv.load(tmp_path / "mine", network=net).model) == before


def test_a_digest_holds_no_address():
    class Printed(nn.Identity):
        def __init__(self) -> None:
            super().__init__()
            self.helper = object()

        def extra_repr(self) -> str:
            return f"{self.helper}"

    first, second = Printed(), Printed()
    assert repr(first) != repr(second)
    assert digest_of(sv.SplitModel(nn.Flatten(), first)) == digest_of(sv.SplitModel(nn.Flatten(), second))


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64]
)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)])
def test_weights_of_any_type_are_part_of_a_digest_by_their_bytes(dtype, shape):
    half = nn.Flatten()
    value = torch.ones(shape).to(dtype)
    half.register_buffer("weight", value.T if value.ndim == 2 else value)
    assert digest_of(sv.SplitModel(half, nn.Flatten()))
    if dtype != torch.bfloat16:
        assert _bytes(half.state_dict()["weight"]) == half.state_dict()["weight"].numpy().tobytes()
    else:
        other = nn.Flatten()
        other.register_buffer("weight", 2 * value)
        assert len(_bytes(value)) == 2 * value.numel()
        same = digest_of(sv.SplitModel(half, nn.Flatten())) == digest_of(sv.SplitModel(other, nn.Flatten()))
        assert same == (not value.numel())


def test_a_model_that_is_not_whole_is_shown():
    lazy = sv.SplitModel(nn.Sequential(nn.LazyConv2d(4, 3), nn.Conv2d(4, 1, 1)), nn.Flatten())
    assert repr(lazy).endswith("5 weights on the device, 0 in the cloud)")
    old = made(sv.Gaussian(0.1))
    del old.at
    assert repr(old).startswith("SplitModel(made of two halves: images (3, 12, 12)")
    empty = sv.SplitModel.__new__(sv.SplitModel)
    nn.Module.__init__(empty)
    assert repr(empty).endswith("0 weights on the device, 0 in the cloud)")


def test_sparse_weights_are_part_of_a_digest():
    class Fixed(nn.Module):
        def __init__(self, scale: float):
            super().__init__()
            self.register_buffer("kept", (scale * torch.eye(4)).to_sparse())

    digests = [digest_of(sv.SplitModel(Fixed(scale), nn.Flatten())) for scale in (1.0, 1.0, 2.0)]
    assert digests[0] == digests[1] != digests[2]
