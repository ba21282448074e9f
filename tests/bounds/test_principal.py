"""One Gaussian by principal directions: its density, and what it brings where images are fewer than values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from splitveil.bounds import _gaussians
from splitveil.bounds._examples import channel_of
from splitveil.bounds._principal import Principal, candidates
from splitveil.bounds.base import Conditional
from splitveil.bounds.gaussian_channel import GaussianChannel
from splitveil.bounds.mixture import MixtureBound
from splitveil.defenses.base import Stack
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.topk import TopK


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def turned(dimension: int, seed: int) -> torch.Tensor:
    """A random rotation."""
    return torch.linalg.qr(torch.randn(dimension, dimension, generator=rng(seed), dtype=torch.float64))[0]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 6))
def test_the_density_is_that_of_the_whole_covariance(seed, dimension, count):
    count = min(count, dimension)
    directions, mean = turned(dimension, seed)[:count], torch.randn(dimension, generator=rng(seed), dtype=torch.float64)
    variances, rest = 0.5 + torch.rand(count, generator=rng(seed), dtype=torch.float64), 0.3
    covariance = directions.T @ variances.diag() @ directions
    covariance += rest * (torch.eye(dimension, dtype=torch.float64) - directions.T @ directions)
    z = torch.randn(5, dimension, generator=rng(seed + 1), dtype=torch.float64)
    whole: Any = covariance.numpy()
    expected = multivariate_normal(mean.numpy(), whole).logpdf(z.numpy())
    assert np.allclose(Principal(mean, directions, variances, rest).log_density(z), expected)


def test_the_density_turns_with_the_features():
    z, others, turn = torch.randn(30, 50, generator=rng(1)), torch.randn(20, 50, generator=rng(2)), turned(50, 3)
    scale = torch.logspace(0, -2, 50, dtype=torch.float64)
    z, others = z.double() * scale, others.double() * scale
    for straight, rotated in zip(candidates(z, others, 0.1), candidates(z @ turn, others @ turn, 0.1), strict=True):
        assert torch.allclose(straight.log_density(others), rotated.log_density(others @ turn))


def test_it_comes_near_the_exact_leakage_of_few_directions_in_a_wide_wire():
    """Where a full covariance from as many images is far above it."""
    basis = torch.randn(10, 400, generator=rng(1)) * torch.logspace(0, -1.5, 10)[:, None]
    z = torch.randn(900, 10, generator=rng(2)) @ basis
    exact = 0.5 * float(torch.logdet(torch.eye(10).double() + basis.double() @ basis.double().T / 0.09))
    channel = channel_of(z, torch.arange(900) % 3, 0.3, rng())
    (found,) = GaussianChannel().estimate(channel, rng())
    assert found.interval is not None
    assert exact < found.interval.hi
    assert found.value == pytest.approx(exact, rel=0.03)
    assert "10 directions" in found.about
    (mixed,) = MixtureBound(clusters=1).estimate(channel, rng())
    assert (mixed.value, mixed.about) == (pytest.approx(found.value, rel=0.01), found.about)
    law = channel.conditional("fit")
    one = torch.zeros(len(law.mean), dtype=torch.long)
    full = _gaussians.full(_gaussians.Groups(law.mean, one, 1), law.variance.mean(0), 0.0)
    wire = channel.conditional("held_out").draw(rng())
    assert float((channel.conditional("held_out").log_density(wire) - full.log_density(wire)).mean()) > 1.05 * exact


@pytest.mark.parametrize("bound", [GaussianChannel(), MixtureBound(clusters=1)], ids=["channel", "mixture"])
def test_the_density_is_of_what_is_sent(bound):
    """Its variances were once taken from the feature before the defense: the bound was far too large."""
    features = torch.randn(200, 64, generator=rng(1))
    channel = channel_of(features, torch.arange(200) % 3, 0.3, rng())
    channel.model.defense = Stack(TopK(0.1), Gaussian(0.3))
    sent = torch.cat([channel.conditional(part).mean for part in ("fit", "choose", "held_out")])
    independent = 0.5 * float((sent.var(0) / 0.09).log1p().sum())
    (found,) = bound.estimate(channel, rng())
    assert found.value < 1.2 * independent


@pytest.mark.parametrize("bound", [GaussianChannel(), MixtureBound(clusters=1)], ids=["channel", "mixture"])
def test_a_defense_may_send_fewer_numbers_than_the_feature_has(bound, monkeypatch):
    channel = channel_of(torch.randn(200, 300, generator=rng(1)), torch.arange(200) % 3, 0.3, rng())
    whole = channel.conditional

    def few(part: str) -> Conditional:
        law = whole(part)
        return Conditional(law.mean[:, :150], law.variance[:, :150])

    monkeypatch.setattr(channel, "conditional", few)
    (found,) = bound.estimate(channel, rng())
    assert 0 < found.value < 2 * 150 * 0.5 * np.log1p(1 / 0.09)


def test_the_variances_are_those_of_the_other_images_and_the_noise():
    z, others = (torch.randn(rows, 40, generator=rng(rows), dtype=torch.float64) for rows in (30, 20))
    centered = others - z.mean(0)
    for q in candidates(z, others, 0.5):
        along = (centered @ q.directions.T).square().mean(0)
        assert torch.allclose(q.variances, along + 0.5)
        total = float(q.variances.sum()) + q.rest * (40 - len(q.variances))
        assert total == pytest.approx(float(centered.square().sum(1).mean()) + 40 * 0.5)


def test_features_that_are_all_alike_leave_only_the_noise():
    z = torch.ones(12, 30, dtype=torch.float64)
    (q,) = candidates(z, z[:4], 0.5)
    assert len(q.variances) == 0
    assert q.rest == pytest.approx(0.5)
