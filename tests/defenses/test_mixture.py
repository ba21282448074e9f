"""The mixture behind `cem`'s leakage: the bound against closed forms, variances of few images, held-out features."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cem_problem import CLASSES, SIGMA, M, bound, data, fitted, nearest
from splitveil.defenses import _kmeans, _mixture


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def theorem(counts: Tensor, variance: Tensor, sigma2: float) -> float:
    """Theorem 2's right side: the bound for samples whose weights and variances are their own."""
    own = counts[..., None] * variance
    return float(_mixture.bound(counts / counts.sum(), variance, sigma2, counts, own))


def gaussian_nats(covariance: Tensor, sigma2: float) -> float:
    """I(x; z_wire) of one Gaussian: ½ log det(I + Σ/σ²)."""
    return float(torch.logdet(torch.eye(len(covariance)).double() + covariance.double() / sigma2) / 2)


# The bound


@pytest.mark.parametrize("sigma2", [1e-4, 0.05, 3.0])
def test_nats_equal_the_definition(sigma2):
    z, y = data()
    cem = fitted(z, y)
    found = _kmeans.Clusters(cem.centers, cem.counts, cem.variance)
    counts, squares = _kmeans.deviations(z, y, found)
    own = squares / counts.clamp_min(1)[..., None]
    expected = float(bound(z.double(), nearest(cem, z, y), sigma2))
    assert theorem(counts, own, sigma2) == pytest.approx(expected, rel=1e-3)  # about the centers of the last assignment


def test_the_bound_is_the_divergence_from_the_mixture_component():
    """−log π_j + KL(N(z, σ²) ‖ N(μ_j, v_j + σ²)), sample by sample, by torch's own divergence."""
    g, sigma2 = rng(), 0.04
    weights = torch.rand(2, 3, generator=g)
    centers, variance = torch.randn(2, 3, M, generator=g), torch.rand(2, 3, M, generator=g)
    z, y, j = torch.randn(50, M, generator=g), torch.arange(50) % 2, torch.arange(50) % 3
    normal = torch.distributions.Normal
    wire = normal(z, torch.tensor(sigma2).sqrt())
    component = normal(centers[y, j], (variance[y, j] + sigma2).sqrt())
    divergence = torch.distributions.kl_divergence(wire, component).sum(1)
    expected = (divergence - weights[y, j].log()).mean()
    counts, squares = torch.zeros(2, 3), torch.zeros(2, 3, M)
    counts.index_put_((y, j), torch.ones(50), accumulate=True)
    squares.index_put_((y, j), (z - centers[y, j]).square(), accumulate=True)
    assert float(_mixture.bound(weights, variance, sigma2, counts, squares)) == pytest.approx(float(expected), rel=1e-5)


def test_diagonal_is_looser_than_the_full_covariance_which_is_looser_than_the_truth():
    # One Gaussian with correlated dimensions: there I(x; z_wire) is known.
    g = rng()
    mix = torch.randn(M, M, generator=g, dtype=torch.float64)
    z = torch.randn(4000, M, generator=g, dtype=torch.float64) @ mix
    truth = gaussian_nats(mix.T @ mix, SIGMA**2)
    one = torch.zeros(len(z), dtype=torch.long)
    full, diagonal = float(bound(z, one, SIGMA**2, full=True)), float(bound(z, one, SIGMA**2))
    ours = theorem(torch.tensor([[4000.0]]), z.var(0, unbiased=False)[None, None], SIGMA**2)
    assert ours == pytest.approx(diagonal)
    assert truth == pytest.approx(full, rel=0.01)
    assert diagonal > full * 1.05


def test_nats_bound_the_information_of_separated_clusters_at_any_labels():
    # k equal points far apart: exactly log k nats get through, whatever classes they have.
    assert theorem(torch.ones(2, 4), torch.zeros(2, 4, M), 0.01) == pytest.approx(math.log(8))


def test_empty_clusters_count_nothing():
    counts, variance = torch.tensor([[3.0, 5.0]]), torch.rand(1, 2, M)
    padded = torch.tensor([[3.0, 5.0, 0.0]]), torch.cat([variance, torch.zeros(1, 1, M)], 1)
    assert theorem(*padded, 0.1) == pytest.approx(theorem(counts, variance, 0.1))


@given(st.floats(1e-4, 10), st.floats(1.01, 10), st.integers(0, 20))
@settings(deadline=None, max_examples=40)
def test_more_noise_less_leakage(sigma2, factor, seed):
    g = rng(seed)
    counts, variance = torch.randint(0, 9, (2, 3), generator=g).float() + 1, torch.rand(2, 3, M, generator=g)
    less, more = (theorem(counts, variance, s) for s in (sigma2, sigma2 * factor))
    assert more < less
    assert more >= float(torch.special.entr(counts / counts.sum()).sum()) - 1e-5


# Variances of few images


def test_shrunk_variances_are_the_formula():
    g = rng()
    counts = torch.tensor([[4.0, 0.0, 30.0], [1.0, 1.0, 0.0]])
    biased = torch.rand(2, 3, M, generator=g) * (counts > 1)[..., None]
    found = _mixture.shrunk(counts, biased)
    everything = (4 * biased[0, 0] + 30 * biased[0, 2]) / (3 + 29)
    first = (4 * biased[0, 0] + 30 * biased[0, 2] + 20 * everything) / (3 + 29 + 20)
    torch.testing.assert_close(found[0, 0], (4 * biased[0, 0] + 20 * first) / (3 + 20))
    torch.testing.assert_close(found[0, 1], first)  # an empty cluster
    torch.testing.assert_close(found[0, 2], (30 * biased[0, 2] + 20 * first) / (29 + 20))
    torch.testing.assert_close(found[1], everything.expand(3, -1))  # clusters of one know nothing themselves


@pytest.mark.parametrize("members", [2, 5, 19])
def test_shrunk_variances_are_unbiased_where_all_clusters_are_alike(members):
    counts = torch.full((4, 3), float(members))
    draws = 0.7 * torch.randn(100, 4, 3, members, M, generator=rng())
    found = [float(_mixture.shrunk(counts, z.var(2, correction=0)).mean()) for z in draws]
    assert sum(found) / 100 == pytest.approx(0.49, rel=0.02)


@given(st.integers(0, 30), st.floats(0.01, 100))
@settings(deadline=None, max_examples=30)
def test_shrunk_variances_scale_with_the_features_and_lie_between_the_extremes(seed, scale):
    g = rng(seed)
    counts = torch.randint(0, 40, (3, 4), generator=g).float()
    biased = torch.rand(3, 4, M, generator=g) * (counts > 1)[..., None]
    found = _mixture.shrunk(counts, biased)
    torch.testing.assert_close(_mixture.shrunk(counts, scale * biased), scale * found, rtol=1e-4, atol=1e-6)
    unbiased = biased * (counts / (counts - 1).clamp_min(1))[..., None]
    assert (found <= unbiased.amax((0, 1)) + 1e-6).all()
    assert (found >= 0).all()


# Held-out features


def features(n: int, classes: int, kind: str, m: int = 64, seed: int = 0) -> tuple[Tensor, Tensor, float]:
    """z ~ N(0, Σ) of average variance 0.02, labels, and the true I(x; z_wire) at σ = 0.025."""
    g = rng(seed)
    z = 0.02**0.5 * torch.randn(n, m, generator=g)
    covariance = 0.02 * torch.eye(m)
    if kind == "scales":
        scales = torch.logspace(-0.5, 0.5, m)
        z, covariance = z * scales, 0.02 * (scales**2).diag()
    if kind == "mixed":
        mix = torch.eye(m) + 0.05 * torch.randn(m, m, generator=g)
        z, covariance = z @ mix, 0.02 * mix.T @ mix
    return z, torch.arange(n) % classes, gaussian_nats(covariance, 0.025**2)


@pytest.mark.parametrize(("n", "classes"), [(4000, 10), (500, 10), (180, 10), (300, 100), (53, 53), (7, 2)])
@pytest.mark.parametrize("kind", ["alike", "scales", "mixed"])
def test_held_out_leakage_is_no_underestimate(n, classes, kind):
    """Averaged over draws, since each is an estimate; the plug-in of the same clusters falls short."""
    found, plug_in = [], []
    for seed in range(4):
        z, y, truth = features(n, classes, kind, seed=seed)
        found.append(float(_mixture.held_out_nats(z, y, classes, 5, 0.025**2, rng(seed))) / truth)
        clusters = _kmeans.fit(z, y, classes, 5, rng(seed))
        plug_in.append(theorem(clusters.counts, clusters.variance, 0.025**2) / truth)
    assert sum(found) / 4 > 1
    if n <= 500:
        assert sum(plug_in) / 4 < 1


def test_held_out_leakage_comes_near_the_truth_where_images_are_many():
    z, y, truth = features(20_000, 10, "alike")
    assert truth < float(_mixture.held_out_nats(z, y, 10, 5, 0.025**2, rng())) < truth + math.log(50)


def test_held_out_leakage_is_that_of_each_fifth_by_clusters_of_the_others():
    z, y = data(100)
    found = _mixture.held_out_nats(z, y, CLASSES, 1, SIGMA**2, rng())
    order = torch.argsort(y, stable=True)
    total = 0.0
    for fold in range(5):
        out = order[fold::5]
        rest = torch.tensor([i for i in range(100) if i not in set(out.tolist())])
        clusters = _mixture.fit(z[rest], y[rest], CLASSES, 1, rng())
        for i in out.tolist():
            center, variance = clusters.centers[y[i], 0], clusters.variance[y[i], 0]
            weight = (float((y[rest] == y[i]).sum()) + 1) / (len(rest) + CLASSES)
            drift = ((z[i] - center).square() - variance) / (variance + SIGMA**2)
            total += float((torch.log1p(variance / SIGMA**2) + drift).sum()) / 2 - math.log(weight)
    assert float(found) == pytest.approx(total / 100, rel=1e-4)


def test_a_fit_merges_small_clusters_and_keeps_small_classes_whole():
    g = rng()
    sizes = torch.tensor([200, 19, 45, 1, 0])
    y = torch.repeat_interleave(torch.arange(5), sizes)
    z = torch.randn(len(y), M, generator=g)
    found = _mixture.fit(z, y, 5, 5, rng())
    assert found.counts.sum(1).tolist() == sizes.tolist()
    small = (found.counts > 0) & (found.counts < _mixture.SMALLEST)
    assert small.sum(1).tolist() == [0, 1, 0, 1, 0]
    assert (found.counts > 0).sum(1)[1] == 1
    assert (found.counts > 0).sum(1)[2] <= 2
    assert found.variance.min() > 0.3
