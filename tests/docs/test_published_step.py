"""The published step that the speed is compared with computes the published loss."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from splitveil.defenses.base import Step
from splitveil.defenses.cem import CEM

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from published_step import entropy_loss, published_step

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_its_loss_is_the_released_one_of_the_defense():
    rng = torch.Generator().manual_seed(0)
    z, y = torch.rand(24, 6, generator=rng), torch.arange(24) % 3
    centers, variances = torch.rand(3, 5, 6, generator=rng), torch.rand(3, 5, generator=rng)
    sizes = torch.randint(50, 500, (3, 5), generator=rng).float()
    cem = CEM(1.0, loss="released", schedule="constant")
    cem.sigma2, cem.centers, cem.counts = 0.1, centers, sizes
    cem.variance = variances[..., None].expand(-1, -1, 6)
    empty = torch.zeros(())
    step = Step(z, y, z, z, empty, rng, 0.01, 0.5, None)
    expected = cem.loss(step)
    assert expected is not None
    assert float(entropy_loss(z, y, centers, variances, sizes, 0.125 * 0.1)) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["speed.py", "defense_cost.py", "gpu_profile.py"])
def test_a_benchmark_trains_in_the_precision_of_the_commands(name):
    # speed.py once gave a Fabric of its own to the training, which then ran in fp32 where commands use bf16.
    code = (BENCHMARKS / name).read_text("utf-8")
    assert "Trainer(settings" in code
    assert "fabric_of(settings" in code
    assert not re.search(r"\bFabric\(", code)


def test_a_step_changes_both_halves():
    torch.manual_seed(0)
    encoder, tail = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.Sigmoid()), nn.Linear(4, 2)
    before = [p.clone() for half in (encoder, tail) for p in half.parameters()]
    published_step(encoder, tail, torch.rand(8, 3, 2, 2), torch.arange(8) % 2)()
    after = [p for half in (encoder, tail) for p in half.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
