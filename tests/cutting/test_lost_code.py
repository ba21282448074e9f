"""Code that a trace would lose: changes in place, layers that begin at zero, chance, and contexts without gradients."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import splitveil as sv
from splitveil.cutting.network import cut_network

X = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


class Network(nn.Module):
    """Two convolutions and a head, with something in between."""

    def __init__(self, middle: Any, zero: bool = False):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.scale, self.shift = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(4, 1, 1))
        self.relu, self.head = nn.ReLU(inplace=True), nn.Linear(4, 5)
        self.middle = middle
        if zero:
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.middle(self, self.stem(x))).mean((2, 3)))


def shifted(net: Any, x: Tensor) -> Tensor:
    x.add_(net.shift)
    return x


def limited(net: Any, x: Tensor) -> Tensor:
    x.clamp_(max=20)
    return x


def a_part(net: Any, x: Tensor) -> Tensor:
    x[:, :2].mul_(1 + net.scale)
    return x


def a_module(net: Any, x: Tensor) -> Tensor:
    net.relu(x)
    return x


@pytest.mark.parametrize(
    ("middle", "call"),
    [(shifted, "add_"), (limited, "clamp_"), (a_part, "mul_"), (a_module, "relu")],
)
def test_a_change_in_place_whose_answer_is_not_used_is_refused(middle, call):
    """It was left out of the halves, with its parameters, where it did nothing at the first weights."""
    with pytest.raises(sv.UserError, match=rf"changes a tensor in place by {call} and does not use the answer"):
        cut_network(Network(middle), "stem", X)


def test_changes_whose_answer_is_used_and_of_what_nobody_reads_are_none():
    def used(net: Any, x: Tensor) -> Tensor:
        x.clone().add_(1)
        x += net.shift
        return x.clamp_(max=20)

    network = Network(used)
    with torch.no_grad():
        network.shift.add_(torch.randn(4, 1, 1))
    encoder, tail = cut_network(network, "stem", X)
    torch.testing.assert_close(tail(encoder(X)), network(X))
    assert "shift" in dict(tail.named_parameters())


def mode(net: Any, x: Tensor) -> Tensor:
    return functional.dropout(x, 0.5) if net.training else x


def twice(net: Any, x: Tensor) -> Tensor:
    return 2 * x if net.training else x


def torch_chance(net: Any, x: Tensor) -> Tensor:
    return x if net.training and torch.rand(1).item() < 0.01 else functional.relu(x)


def python_chance(net: Any, x: Tensor) -> Tensor:
    return x if net.training and random.random() < 0.01 else functional.relu(x)


def numpy_chance(net: Any, x: Tensor) -> Tensor:
    return x if net.training and np.random.rand() < 0.01 else functional.relu(x)  # noqa: NPY002


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("middle", [mode, twice, torch_chance, python_chance, numpy_chance])
def test_code_that_only_training_has_is_seen_behind_any_head(middle, zero):
    """A head that begins at zero hid it, and chance that seldom takes its other way."""
    with pytest.raises(sv.UserError, match="its code branches on the batch, the mode or chance"):
        cut_network(Network(middle, zero), "stem", X)


def generators() -> tuple[Any, ...]:
    numbers: Any = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numbers[1].tolist(), torch.get_rng_state().tolist()


def test_weights_and_generators_are_as_they_were_after_the_trial():
    network = Network(lambda net, x: functional.relu(x), zero=True)
    states = generators()
    encoder, tail = cut_network(network, "stem", X)
    assert generators() == states
    assert torch.equal(dict(tail.named_parameters())["head.weight"], torch.zeros(5, 4))
    assert torch.equal(tail(encoder(X)), torch.zeros(1, 5))


class Frozen(nn.Module):
    """A backbone that learns nothing, by the way in which it is called."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.body, self.head = nn.Conv2d(4, 4, 3), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.backbone(x)
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize("at", ["backbone", "body"])
def test_what_the_network_does_not_learn_the_halves_do_not_either(at):
    network = Frozen()
    model = sv.split(network, at, X)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sv.fit(model, (torch.rand(40, 3, 12, 12), torch.arange(40) % 5), epochs=1, batch_size=20, progress=False)
    after = model.state_dict()
    changed = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"body", "head"}
    assert all(value.requires_grad for value in network.parameters())  # the user's own is as it was


def test_a_parameter_that_only_the_network_learns_is_named(monkeypatch):
    from splitveil.cutting import network as cutting

    monkeypatch.setattr(cutting, "_check_changes", lambda *_: None)
    with pytest.raises(sv.UserError, match=r"do not repeat|leave out (scale|shift)"):
        cut_network(Network(shifted), "stem", X)
