"""Parts of an audit on their own: the cost on the device, words, and the section for a model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from commands import answer
from splitveil.audit.attacked import Scored
from splitveil.audit.device import device_cost, multiply_adds
from splitveil.audit.policy import Limit
from splitveil.audit.run import is_noisy
from splitveil.audit.words import percent
from splitveil.defenses.base import Defense, Features
from splitveil.defenses.cem import CEM
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.waterfill import Waterfill
from splitveil.model import SplitModel
from splitveil.statistics.intervals import Interval, paired_ratio


class Rotated(Defense):
    """A wire of 8 values behind a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(8))
        self.matrix: torch.Tensor

    def on_wire(self, z: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        return z @ self.matrix


def test_multiply_adds_of_convolutions_and_matrices():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 10))
    model = SplitModel(layers, nn.Identity(), example=torch.rand(1, 3, 8, 8))
    assert multiply_adds(model) == 8 * 4 * 4 * 27 + 128 * 10


def test_the_defense_counts_on_the_device():
    encoder = nn.Sequential(nn.Conv2d(3, 2, 2, 2), nn.Flatten())
    plain = SplitModel(encoder, nn.Identity(), example=torch.rand(1, 3, 4, 4))
    defended = SplitModel(encoder, nn.Identity(), defense=[Rotated()], example=torch.rand(1, 3, 4, 4))
    assert multiply_adds(defended) == multiply_adds(plain) + 64
    assert device_cost(defended.eval()).parameters == device_cost(plain.eval()).parameters + 64
    assert device_cost(plain).bytes == 4 * 8


def test_what_only_a_training_or_the_cloud_needs_is_not_on_the_device():
    encoder, x = nn.Sequential(nn.Conv2d(3, 2, 2, 2), nn.Flatten()), torch.rand(1, 3, 4, 4)
    plain = SplitModel(encoder, nn.Identity(), defense=[Gaussian(0.1)], example=x).eval()
    cem, filled = CEM(16), Waterfill()
    pulled = SplitModel(encoder, nn.Identity(), defense=[Gaussian(0.1), cem], example=x).eval()
    rng = torch.Generator().manual_seed(0)
    cem.refit(0, Features(torch.randn(40, 8, generator=rng), torch.arange(40) % 2, 2, rng))
    assert device_cost(pulled).parameters == device_cost(plain).parameters
    hard = SplitModel(encoder, nn.Identity(), defense=[filled], example=x).eval()
    filled.center, filled.matrix = torch.zeros(8), torch.randn(3, 8, generator=rng)
    filled.estimate = torch.randn(8, 3, generator=rng)
    assert multiply_adds(hard) == multiply_adds(plain) + 3 * 8
    assert device_cost(hard).parameters == device_cost(plain).parameters + 3 * 8 + 8


def test_a_share_has_as_many_digits_as_its_interval_supports():
    assert percent(Interval(0.5, 0.41, 0.62)) == "50 % [41, 62]"
    assert percent(Interval(0.8512, 0.8451, 0.8571)) == "85.1 % [84.5, 85.7]"


@pytest.mark.parametrize(
    ("limit", "measured", "met"),
    [
        (Limit(at_least=0.5), Interval(0.6, 0.5, 0.7), True),
        (Limit(at_least=0.5), Interval(0.6, 0.49, 0.7), False),
        (Limit(at_most=0.5), Interval(0.4, 0.3, 0.5), True),
        (Limit(at_most=0.5), Interval(0.4, 0.3, 0.51), False),
        (Limit(at_least=1, at_most=2), 1.5, True),
        (Limit(at_least=1, at_most=2), 2.5, False),
        (Limit(at_most=0.5), "there is none", False),
    ],
)
def test_a_limit_holds_for_the_whole_interval(limit, measured, met):
    assert limit.line("linkage", measured).met is met


def test_a_paired_ratio_is_narrower_than_its_parts():
    rng = torch.Generator().manual_seed(0)
    shared = torch.rand(400, generator=rng) + 0.1
    found = paired_ratio(1.5 * shared + 0.001 * torch.rand(400, generator=rng), shared)
    assert found.lo < found.mean < found.hi
    assert found.mean == pytest.approx(1.5, abs=0.01)
    assert found.hi - found.lo < 0.01
    with pytest.raises(Exception, match="denominator"):
        paired_ratio([1.0, 2.0], [0.0, 0.0])


def test_a_run_that_is_audited_by_two_processes_is_refused(tmp_path: Path, finished_run):
    from splitveil.storage.claims import claimed

    with claimed(finished_run / "audit", "audit"):
        code, error = answer("audit", finished_run, "--judge-epochs", "0", "--bounds", "linkage")
    assert (code, error.count("\n")) == (2, 1)


def test_the_attack_that_is_recognized_most_often_counts():
    mse, hits = torch.tensor([0.1, 0.1]), {"blurred": [0.0, 1.0], "sharp": [1.0, 1.0]}
    values = {name: {"mse": mse, "reidentified": torch.tensor(hit)} for name, hit in hits.items()}
    none: Any = None
    found = Scored(made={}, values=values, name="blurred", chosen=["blurred", "blurred"], given=none)
    seen = found.seen()
    assert seen is not None
    assert (seen.attack, seen.share.mean) == ("sharp", 1.0)
    assert found.best("reidentified").tolist() == hits["blurred"]


def test_the_schema_names_its_version():
    schema = json.loads((Path(__file__).parents[2] / "docs" / "audit.schema.json").read_text())
    assert schema["title"] == "SplitVeil audit, version 1"


@pytest.mark.parametrize(("ratio", "noisy"), [(0.01, True), (0.0, False)])
def test_noise_that_mostly_changes_nothing_is_noise(ratio, noisy):
    """Two wires of eight values each are mostly equal where one value in a hundred is dropped."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 8))
    model = SplitModel(layers, nn.Identity(), defense=[Dropout(ratio)], example=torch.rand(1, 3, 4, 4)).eval()
    assert is_noisy(model) == noisy
