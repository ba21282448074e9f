"""Gaussians of a few directions and a diagonal: their density, what they keep, and where they fit best."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from splitveil.bounds._examples import channel_of
from splitveil.bounds._gaussians import Groups, diagonal, full
from splitveil.bounds._low_rank import LowRank, low_rank
from splitveil.bounds.mixture import MixtureBound


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def covariance(q: LowRank) -> torch.Tensor:
    """Return L Lᵀ + diag(v) of each Gaussian, (J, D, D)."""
    return q.loadings @ q.loadings.mT + torch.diag_embed(q.variances)


@pytest.mark.parametrize(("width", "count"), [(1, 1), (3, 2), (24, 3)])
def test_the_density_is_that_of_scipy(width, count):
    turn = torch.randn(width, width, generator=rng(9), dtype=torch.float64)
    z = torch.randn(90, width, generator=rng(), dtype=torch.float64) @ turn
    q = low_rank(Groups(z, torch.arange(90) % count, count), torch.full((width,), 0.1, dtype=torch.float64), 5.0)
    points = torch.randn(7, width, generator=rng(1), dtype=torch.float64)
    expected = np.zeros(7)
    for weight, mean, whole in zip(q.weights, q.means, covariance(q).numpy(), strict=True):
        expected += float(weight) * multivariate_normal(mean.numpy(), whole).pdf(points.numpy())
    assert np.allclose(q.log_density(points).numpy(), np.log(expected))


def test_variances_stay_and_covariances_of_few_directions_come_back():
    """Of S^½ (u λ uᵀ + diag) S^½ with one direction for eight values nothing but noise is lost."""
    loading = torch.randn(16, 2, generator=rng(1), dtype=torch.float64)
    exact = loading @ loading.T + torch.rand(16, generator=rng(2), dtype=torch.float64).add(0.2).diag()
    z = torch.randn(20000, 16, generator=rng(3), dtype=torch.float64) @ torch.linalg.cholesky(exact).T
    groups = Groups(z, torch.arange(20000) % 2, 2)
    q = low_rank(groups, torch.full((16,), 0.01, dtype=torch.float64), 5.0)
    variances = groups.covariances(5.0).diagonal(dim1=1, dim2=2) + 0.01
    torch.testing.assert_close(covariance(q).diagonal(dim1=1, dim2=2), variances)
    # Principal factors do not maximize the likelihood: directions take up some of the diagonal's own differences.
    assert float((covariance(q) - exact).abs().max()) < 0.12 * float(exact.abs().max())


@pytest.mark.parametrize("count", [1, 2])
def test_one_density_leaves_the_groups_as_they_were_for_the_next(count):
    z = torch.randn(60, 8, generator=rng(), dtype=torch.float64)
    groups, noise = Groups(z, torch.arange(60) % count, count), torch.full((8,), 0.1, dtype=torch.float64)
    before = groups.covariances(2.0)
    full(groups, noise, 2.0)
    low_rank(groups, noise, 2.0)
    assert torch.equal(groups.covariances(2.0), before)


def test_it_is_the_best_density_where_few_directions_and_a_diagonal_made_the_features():
    loading = torch.randn(2, 64, 4, generator=rng(1), dtype=torch.float64)
    own = torch.rand(2, 64, generator=rng(2), dtype=torch.float64).add(0.05).sqrt()

    def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.arange(count) % 2
        hidden, rest = (torch.randn(count, n, generator=rng(seed + n), dtype=torch.float64) for n in (4, 64))
        return y, (loading[y] @ hidden[..., None]).squeeze(2) + own[y] * rest

    (y, z), (_, points) = drawn(300, 3), drawn(500, 400)
    groups, noise = Groups(z, y, 2), torch.full((64,), 1e-4, dtype=torch.float64)
    found = [float(q.log_density(points).mean()) for q in (low_rank(groups, noise, 8.0), full(groups, noise, 64.0))]
    assert found[0] > found[1] + 3
    assert found[0] > float(diagonal(groups, noise, 20.0).log_density(points).mean()) + 3
    (bound,) = MixtureBound(clusters=1).estimate(
        channel_of(drawn(900, 5)[1].float(), drawn(900, 5)[0], 0.1, rng()), rng()
    )
    assert "low-rank-plus-diagonal" in bound.about
