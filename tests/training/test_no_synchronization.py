"""No step of a training waits for the accelerator: nothing in it needs a value on the host."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil.config import Spec
from splitveil.defenses.base import NEVER
from splitveil.registry import Registry
from splitveil.training.loop import Training
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


def waits(monkeypatch, *defenses: str, **settings: Any) -> Counter[str]:
    """Train for three epochs and return what waited in the steps."""
    mode, real = Waits(), Training._step

    def step(self, *args):
        with mode:
            return real(self, *args)

    monkeypatch.setattr(Training, "_step", step)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = sv.split(network(), at="4", example=torch.rand(1, 3, 16, 16), defenses=list(defenses))
        sv.fit(model, (IMAGES, LABELS), epochs=3, batch_size=8, progress=False, **settings)
    return mode.found


def test_the_mode_sees_what_waits():
    x = torch.arange(4.0)
    with Waits() as mode:
        x.sum().item()
        bool(x[0] > 0)
        x[x > 1]
        x[x > 1] = 0
        x.nonzero()
    assert mode.found.total() >= 5


@pytest.mark.parametrize("settings", [{"recipe": "published"}, {"recipe": "fast"}, {"rotate": 10}], ids=str)
def test_a_plain_step_waits_for_nothing(monkeypatch, settings):
    assert not waits(monkeypatch, **settings)


TRAINED = [n for n in Registry("defenses").names() if Spec(name=n).make("defenses").acts_after != NEVER]
"""Defenses that a training may have."""


@pytest.mark.parametrize("name", TRAINED)
def test_a_step_with_a_defense_waits_for_nothing(monkeypatch, name):
    assert not waits(monkeypatch, *STACKS.get(name, (name,)))


def test_the_released_loss_of_cem_waits_for_nothing(monkeypatch):
    assert not waits(monkeypatch, "gaussian", "cem:loss=released")
