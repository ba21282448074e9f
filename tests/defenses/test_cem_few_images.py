"""The strength of λ where a cluster has few images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cem_problem import SIGMA, M, gradient, install
from splitveil.defenses.base import Features
from splitveil.defenses.cem import CEM, UNIT


def strength(per_cluster: int, z: Tensor, y: Tensor, fresh: Tensor) -> list[float]:
    """RMS pull at features that the clusters were made of, at the same after they moved, and at others."""
    per_class = 5 * per_cluster
    kept = torch.cat([torch.nonzero(y == c)[:per_class, 0] for c in range(10)])
    cem = CEM(schedule="constant")
    install(cem, 0.025)
    z, y = z[kept], y[kept]
    cem.refit(0, Features(z, y, 10, torch.Generator().manual_seed(0)))
    labels = torch.arange(len(fresh)) % 10
    same = torch.cat([torch.nonzero(labels == c)[: int((y == c).sum()), 0] for c in range(10)])  # of the same classes
    moved = 0.9**0.5 * z + 0.1**0.5 * fresh[same]
    return [
        float(len(at) * gradient(cem, at, of).norm() / at.numel() ** 0.5)
        for at, of in ((z, y), (moved, y), (fresh, labels))
    ]


@pytest.fixture(scope="module")
def many() -> dict[str, tuple[Tensor, Tensor, Tensor, list[float]]]:
    """Features of 400 images per cluster and their pull: without clusters, unlike scales, with clusters."""
    g = torch.Generator().manual_seed(0)
    found = {}
    y = torch.arange(20_000) % 10
    for name in ("alike", "scales", "lumps"):
        both = 0.02**0.5 * torch.randn(2, 20_000, 64, generator=g)
        if name == "scales":
            both *= torch.logspace(-0.5, 0.5, 64)
        if name == "lumps":  # a fifth of the variance lies between them
            lump = torch.randint(5, (2, 20_000), generator=g)
            both += 0.005**0.5 * torch.randn(10, 5, 64, generator=g)[y, lump]
        found[name] = (both[0], y, both[1], strength(400, both[0], y, both[1]))
    return found


@pytest.mark.parametrize("per_cluster", [3, 4, 10, 20, 36, 90])
@pytest.mark.parametrize("name", ["alike", "scales", "lumps"])
def test_few_images_pull_as_many(many, name, per_cluster):
    z, y, fresh, full = many[name]
    assert strength(per_cluster, z, y, fresh) == pytest.approx(full, rel=0.15)


@pytest.mark.parametrize("loss", ["bound", "released"])
def test_a_class_without_a_feature_is_pulled_as_all_classes_together(loss):
    """Its clusters lay at 0, all of them, and pulled its images together harder than any others."""
    rng = torch.Generator().manual_seed(0)
    z, y = 5 + torch.randn(60, M, generator=rng), torch.arange(60) % 3
    cem = CEM(loss=loss, schedule="constant")
    install(cem)
    cem.refit(0, Features(z, y, 4, rng))
    torch.testing.assert_close(cem.centers[3], z.mean(0).expand_as(cem.centers[3]))
    torch.testing.assert_close(cem.variance[3], z.var(0, correction=0).expand_as(cem.variance[3]))
    assert not cem.counts[3].any()
    fresh = 5 + torch.randn(40, M, generator=rng)
    known, unknown = (float(gradient(cem, fresh, torch.full((40,), c)).norm()) for c in (0, 3))
    assert unknown < 1.5 * known


def test_what_lies_near_a_merged_cluster_is_pulled_to_one_that_is_left():
    lumps = torch.tensor([0.0, 10.0, 14.0]).repeat_interleave(torch.tensor([30, 30, 5]))
    z = lumps[:, None] + 0.1 * torch.randn(65, M, generator=torch.Generator().manual_seed(0))
    cem = CEM(clusters=3, schedule="constant")
    install(cem)
    cem.centers = torch.tensor([0.0, 10.0, 14.0])[None, :, None].expand(1, 3, M).contiguous()
    cem.refit(0, Features(z, torch.zeros(65, dtype=torch.long), 1, torch.Generator()))
    assert cem.counts.tolist() == [[30, 35, 0]]
    pull = gradient(cem, z, torch.zeros(65, dtype=torch.long))
    expected = cem.weight * UNIT / M / 65 * (z[60:] - cem.centers[0, 1]) / (cem.variance[0, 1] + SIGMA**2)
    torch.testing.assert_close(pull[60:], expected)
