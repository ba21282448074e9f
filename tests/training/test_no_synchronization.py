"""No step of a training waits for the accelerator: nothing in it needs a value on the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import splitveil as sv
from splitveil.attacks import _rounding
from splitveil.attacks.base import Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.config import Spec
from splitveil.data import Access, Split
from splitveil.defenses.base import NEVER
from splitveil.registry import Registry
from splitveil.training.feature_buffer import FeatureBuffer
from splitveil.training.loop import Training
from splitveil.training.own_loop import OwnLoop
from waits import Waits

STACKS = {
    "cem": ("gaussian", "cem"),
    "patrol": ("patrol:epoch=1,ratio=0.5",),
    "sparse_coding_conv_released": ("sparse_coding_conv_released:iterations=3",),
    "adversarial": ("adversarial:network=custom",),
    "adversarial_noise": ("adversarial_noise:network=custom",),
}
IMAGES = torch.randint(0, 256, (24, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
LABELS = torch.arange(24) % 2


def network() -> nn.Module:
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1), nn.Sigmoid()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512, 2))


def model_with(*defenses: str) -> sv.SplitModel:
    torch.manual_seed(0)
    return sv.split(network(), at="4", example=torch.rand(1, 3, 16, 16), defenses=list(defenses))


def waits(monkeypatch, *defenses: str, part: str = "_step", data: Any = None, **settings: Any) -> Counter[str]:
    """Train for three epochs and return what waited in a part of `Training`: in its steps, or in its epochs."""
    mode, real = Waits(), getattr(Training, part)

    def watched(self, *args):
        with mode:
            return real(self, *args)

    monkeypatch.setattr(Training, part, watched)
    with torch.random.fork_rng():
        how: dict[str, Any] = {"epochs": 3, "progress": False, **settings}
        sv.fit(model_with(*defenses), (IMAGES, LABELS) if data is None else data, **how)
    return mode.found


WAITS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "a condition": lambda x: bool(x[0] > 0),
    "a number in a text": lambda x: f"{x[0]:.2f}",
    "a bound of a slice": lambda x: x[: x[2].long()],
    "choice by a mask": lambda x: x[x > 1],
    "assignment by a mask": lambda x: x.index_put_((x > 1,), torch.zeros(())),
    "masked_select": lambda x: x.masked_select(x > 1),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 1),
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(),
    "equal": lambda x: torch.equal(x, x),
    "allclose": lambda x: torch.allclose(x, x),
    "repeat_interleave": lambda x: torch.repeat_interleave(x, x.long()),
    "its method": lambda x: x.repeat_interleave(x.long()),
    "inverse": lambda x: torch.linalg.inv(torch.diag(x + 1)),
    "eigenvalues": lambda x: torch.linalg.eigvalsh(torch.diag(x)),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "an array": lambda x: np.asarray(x),
    "to": lambda x: x.to("cpu"),
    "to, by name": lambda x: x.to(device="cpu", dtype=torch.float64),
}


@pytest.mark.parametrize("name", WAITS)
def test_the_mode_sees_what_waits(name):
    x = torch.arange(4.0)
    with Waits() as mode:
        WAITS[name](x)
    assert mode.found
    found = mode.found.total()
    WAITS[name](x)  # the mode has ended
    assert mode.found.total() == found


def test_the_mode_lets_pass_what_does_not_wait():
    x = torch.arange(4.0)
    with Waits() as mode:
        x.to(torch.float64).to(x.device).repeat_interleave(2)
        x.repeat_interleave(x.long(), output_size=6)
        x[torch.tensor([0, 1])].masked_fill(x[:2] > 0, 0.0)
        list(x)
        torch.linalg.cholesky_ex(torch.eye(2))
    assert not mode.found


@pytest.mark.parametrize(
    "settings", [{"recipe": "published"}, {"recipe": "fast"}, {"rotate": 10}, {"cutout": 4}], ids=str
)
def test_a_plain_step_waits_for_nothing(monkeypatch, settings):
    assert not waits(monkeypatch, batch_size=8, **settings)


TRAINED = [n for n in Registry("defenses").names() if Spec(name=n).make("defenses").acts_after != NEVER]
"""Defenses that a training may have."""


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_with_a_defense_waits_for_nothing(monkeypatch, name):
    assert not waits(monkeypatch, *STACKS.get(name, (name,)), batch_size=8)


def test_the_released_loss_of_cem_waits_for_nothing(monkeypatch):
    assert not waits(monkeypatch, "gaussian", "cem:loss=released", batch_size=8)


@pytest.mark.parametrize("name", TRAINED)
def test_an_epoch_waits_no_more_often_for_more_steps(monkeypatch, name):
    """It waits at its end: for the losses, for the accuracy, and for what defenses learn from the features."""
    stack = STACKS.get(name, (name,))
    found = []
    for size in (12, 4):
        with monkeypatch.context() as patch:
            found.append(waits(patch, *stack, part="_epoch", batch_size=size, lr=0.01))
    assert found[0] == found[1]
    assert found[0]["_local_scalar_dense"] >= 3  # the loss of each epoch


def test_a_step_on_a_batch_of_a_loader_waits_for_nothing(monkeypatch):
    """The batch is checked before, where the loader has put it: on the host."""
    loader = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8)
    assert not waits(monkeypatch, "gaussian", "cem", data=loader)


def test_keeping_features_waits_for_nothing():
    keep, z = FeatureBuffer(20, torch.device("cpu")), torch.rand(8, 4, 2, 2)
    with Waits() as mode:
        for _ in range(3):
            keep.add(z, torch.arange(8))
    assert not mode.found
    assert keep.filled == 20


@pytest.mark.parametrize("name", TRAINED)
def test_the_loss_of_an_own_loop_waits_for_nothing(name):
    with torch.random.fork_rng():
        model, mode = model_with(*STACKS.get(name, (name,))), Waits()
        loop = OwnLoop(model, epochs=3, images=24)
        for _ in range(3):
            for index in torch.arange(24).split(8):
                with mode:
                    loop.loss(IMAGES[index] / 255, LABELS[index]).backward()
            loop.end_epoch()
    assert not mode.found


def test_a_training_of_a_decoder_waits_once_for_its_precision(monkeypatch):
    """By the wires of its first step, where the hardware computes in bf16; see `in_bf16`."""
    monkeypatch.setattr(_rounding, "precision", lambda *_: "bf16-mixed")
    victim, rng = Victim(model_with("gaussian"), frozenset(Access)), torch.Generator().manual_seed(0)
    attack, mode, real = DecoderAttack(epochs=2, network="dense_normN0C16", batch_size=4), Waits(), DecoderAttack.step

    def step(self, *args):
        with mode:
            real(self, *args)

    monkeypatch.setattr(DecoderAttack, "step", step)
    attack.fit(victim, Split(IMAGES, LABELS), rng)
    assert mode.found == {"_local_scalar_dense": 1}
