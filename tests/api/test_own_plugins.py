"""Attacks and defenses of a class of one's own, registered nowhere, given as objects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import splitveil as sv
from splitveil.attacks.base import Attack, Runtime, Victim
from splitveil.data import Split, to_float
from splitveil.defenses.base import Defense, Step
from splitveil.registry import plugin

X, Y = torch.rand(60, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
SIDES: Any = {"learn_from": (X[:30], Y[:30]), "invert": (X[30:], Y[30:])}


class Faded(Defense):
    """Noise, and a penalty on the feature's size."""

    def __init__(self, sigma: float):
        super().__init__()
        self.sigma = sigma

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return z + self.sigma * torch.randn(z.shape, generator=rng, device=z.device)

    def loss(self, step: Step) -> Tensor:
        return step.z.square().mean()


class Mean(Attack):
    """The mean of the attacker's images, a little darker."""

    def __init__(self, darker: float = 0.0, like: object = None):
        self.darker, self.like = darker, like

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        self.found = (to_float(images.images).mean(0) - self.darker).clamp(0, 1)

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return self.found.expand(len(wire), -1, -1, -1)


@plugin("linear")
class Namesake(Mean):
    """An own class under a name that another has."""


def model() -> sv.SplitModel:
    net = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(54, 3))
    return sv.split(net, "1", X[:1], defenses=[Faded(0.1), "topk:0.9"])


def test_an_own_defense_trains_and_acts():
    split = model()
    (record,) = sv.fit(split, (X, Y), epochs=1, batch_size=20, progress=False)
    assert set(record["losses"]) == {"task", "faded"}
    assert not torch.equal(split.encode(X[:2]), split.encode(X[:2]))


@pytest.mark.parametrize("attack", [Mean(), Namesake(), Mean(like=nn.Linear(2, 2))])
def test_an_own_attack_is_made(attack):
    result = sv.attack(model(), attack, **SIDES, progress=False)
    assert result.name == type(attack).__name__
    assert result.mse == pytest.approx(result.baseline_mse, rel=0.05)
    assert not hasattr(attack, "found")  # the object stays as it was given
    ((name, settings),) = result.outcome.summary["attack"].items()
    assert (name, settings["darker"]) == (type(attack).__name__, 0.0)


def test_own_attacks_stand_beside_the_others_in_a_report():
    report = sv.evaluate(model(), [Mean(0.2), "linear:looks=1"], **SIDES, progress=False)
    assert list(report.results) == ["Mean", "linear"]
    assert report.best_attacker in ("linear", "choice per image") or report.mse <= report.results["Mean"].mse
    with pytest.raises(sv.UserError, match="two attacks are called Mean"):
        sv.evaluate(model(), [Mean(0.2), Mean(0.3)], **SIDES, progress=False)


def test_a_class_is_no_object():
    with pytest.raises(sv.UserError, match=r"the class Mean is no registered attack.*write Mean\(\)"):
        sv.attack(model(), Mean, **SIDES)  # type: ignore[arg-type]


def test_plugins_of_earlier_versions_find_their_names():
    """Attacks of other packages import `Work` and call their parameter ``work``."""
    from splitveil.attacks import base
    from splitveil.evaluation import evaluate, stage
    from splitveil.runtime import Runtime

    assert base.Work is Runtime
    assert evaluate.Terms is stage.ThreatModel
