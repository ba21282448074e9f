"""k-means of every class at once against scikit-learn, one class at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from splitveil.defenses import _kmeans


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(per_class: list[int], m: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Shuffled samples, several lumps in every class."""
    g = rng(seed)
    y = torch.repeat_interleave(torch.arange(len(per_class)), torch.tensor(per_class))
    lump = torch.randint(3, (len(y),), generator=g)
    z = torch.randn(len(y), m, generator=g) + 3 * torch.randn(3, m, generator=g)[lump] + y[:, None]
    order = torch.randperm(len(y), generator=g)
    return z[order], y[order]


@pytest.mark.parametrize("seed", range(5))
def test_equals_scikit_learn_from_the_same_start(seed):
    from sklearn import cluster

    kmeans: Any = cluster.KMeans

    z, y = blobs([80, 33, 120], seed=seed)
    start = torch.stack([z[y == c][:4] for c in range(3)])
    found = _kmeans.fit(z, y, 3, 4, rng(), start=start, iterations=300, tolerance=0.0)
    for c in range(3):
        own = z[y == c].double().numpy()
        oracle = kmeans(4, init=start[c].double().numpy(), n_init=1, max_iter=300, tol=0.0).fit(own)
        np.testing.assert_allclose(found.centers[c], oracle.cluster_centers_, atol=1e-4)
        np.testing.assert_array_equal(found.counts[c], np.bincount(oracle.labels_, minlength=4))
        inertia = float((found.counts[c] * found.variance[c].sum(-1)).sum())
        assert inertia == pytest.approx(oracle.inertia_, rel=1e-4)
        for j in range(4):
            members = own[oracle.labels_ == j]
            np.testing.assert_allclose(found.variance[c, j], members.var(0), atol=1e-4)


@pytest.mark.parametrize(("offset", "spread"), [(1e3, 1.0), (1e3, 0.05), (-4e4, 1.0), (0.0, 1.0)])
def test_an_offset_of_all_features_changes_nothing(offset, spread):
    """Against the same in float64: from norms far from zero, float32 has no digit of the distances."""
    z, y = blobs([200, 90], m=256, seed=2)
    z = (spread * z + offset + torch.tensor([[0.0], [offset]])[y]).float()
    start = torch.stack([z[y == c][:4] for c in range(2)])
    found = _kmeans.fit(z, y, 2, 4, rng(), start=start, tolerance=0.0)
    exact = _kmeans.fit(z.double(), y, 2, 4, rng(), start=start.double(), tolerance=0.0)
    assert found.counts.tolist() == exact.counts.tolist()
    torch.testing.assert_close(found.variance.double(), exact.variance, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.centers.double(), exact.centers, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e3, -4e4])
def test_seeds_see_clusters_that_are_far_from_zero(offset):
    """Two lumps 1 apart: the second seed is of the other one, whatever all features have in common."""
    lump = torch.arange(60)[:, None] % 2
    z = (lump / 16 + 1e-4 * torch.randn(60, 256, generator=rng()) + offset).float()
    for seed in range(20):
        found = _kmeans.fit(z, torch.zeros(60, dtype=torch.long), 1, 2, rng(seed), iterations=1)
        assert found.counts.tolist() == [[30, 30]]


def test_seeding_is_as_good_as_scikit_learns():
    """Mean squared distance to the nearest of the k-means++ seeds, averaged over many draws."""
    from sklearn.cluster import kmeans_plusplus

    z, y = blobs([120], seed=3)
    grouped, valid = _kmeans.by_class(z, y, 1)
    ours, theirs = [], []
    for seed in range(200):
        centers = _kmeans.seed_centers(grouped, valid, 4, rng(seed))[0]
        ours.append(float(torch.cdist(z, centers).square().min(1).values.mean()))
        # One trial per seed is the algorithm of 2007; scikit-learn's own default tries several.
        oracle, _ = kmeans_plusplus(z.numpy(), 4, random_state=seed, n_local_trials=1)
        theirs.append(float(torch.cdist(z, torch.from_numpy(oracle)).square().min(1).values.mean()))
    spread = (np.var(ours) / 200 + np.var(theirs) / 200) ** 0.5
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * spread


def test_seeds_are_members_of_their_class():
    z, y = blobs([7, 30, 5])
    grouped, valid = _kmeans.by_class(z, y, 3)
    centers = _kmeans.seed_centers(grouped, valid, 5, rng())
    for c in range(3):
        nearest = torch.cdist(centers[c].double(), z[y == c].double()).min(1)
        assert float(nearest.values.max()) == 0
        assert len(nearest.indices.unique()) == 5  # different images while there are enough


def test_fewer_images_than_clusters():
    z, y = blobs([2, 20])
    found = _kmeans.fit(z, y, 2, 5, rng())
    assert sorted(found.counts[0].tolist()) == [0, 0, 0, 1, 1]
    assert int(found.counts.sum()) == 22
    assert float(found.variance[0].abs().max()) < 1e-10
    assert found.centers.isfinite().all()


def test_a_class_without_images():
    z, y = blobs([20, 0, 15])
    found = _kmeans.fit(z, y, 3, 4, rng())
    assert found.counts.sum(1).tolist() == [20, 0, 15]
    assert found.variance[1].abs().sum() == 0
    assert found.centers.isfinite().all()


def test_identical_points_are_one_cluster():
    found = _kmeans.fit(torch.full((9, 4), 0.3), torch.zeros(9, dtype=torch.long), 1, 3, rng())
    assert sorted(found.counts[0].tolist()) == [0, 0, 9]
    assert float(found.variance.max()) < 1e-12
    assert float((found.centers - 0.3).abs().max()) < 1e-6


def test_an_empty_cluster_keeps_its_center():
    z = torch.tensor([[0.0], [1.0]])
    start = torch.tensor([[[0.5], [90.0]]])
    found = _kmeans.fit(z, torch.zeros(2, dtype=torch.long), 1, 2, rng(), start=start)
    assert found.counts.tolist() == [[2, 0]]
    assert found.centers.flatten().tolist() == [0.5, 90.0]
    assert found.variance.flatten().tolist() == [0.25, 0.0]
    assert start.flatten().tolist() == [0.5, 90.0]  # the caller's tensor is not written to


@given(st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any), st.integers(1, 4), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_invariants(per_class, k, seed):
    z, y = blobs(per_class, seed=seed)
    found = _kmeans.fit(z, y, len(per_class), k, rng(seed))
    assert found.counts.sum(1).tolist() == per_class
    assert found.centers.isfinite().all()
    assert (found.variance >= 0).all()
    assert (found.variance[found.counts == 0] == 0).all()
    for c in range(len(per_class)):  # law of total variance: what is within the clusters is no more than all there is
        if per_class[c]:
            within = (found.counts[c, :, None] * found.variance[c]).sum(0)
            total = per_class[c] * z[y == c].var(0, unbiased=False)
            assert (within <= total * 1.001 + 1e-4).all()


@given(st.integers(1, 15), st.integers(1, 40), st.integers(1, 4), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_a_class_does_not_depend_on_the_size_of_the_others(own, other, k, seed):
    z, y = blobs([own, other], seed=seed)
    start = torch.randn(2, k, 3, generator=rng(seed))
    together = _kmeans.fit(z, y, 2, k, rng(), start=start, tolerance=0.0)
    alone = _kmeans.fit(z[y == 0], y[y == 0], 1, k, rng(), start=start[:1], tolerance=0.0)
    assert torch.equal(together.counts[0], alone.counts[0])
    torch.testing.assert_close(together.centers[0], alone.centers[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.variance[0], alone.variance[0], atol=1e-4, rtol=1e-4)


def test_grouping_by_class_pads_with_zeros():
    z = torch.arange(1.0, 6.0)[:, None]
    grouped, valid = _kmeans.by_class(z, torch.tensor([2, 0, 2, 2, 0]), 3)
    assert grouped[..., 0].tolist() == [[2, 5, 0], [0, 0, 0], [1, 3, 4]]
    assert valid.sum(1).tolist() == [2, 0, 3]


def test_same_generator_same_clusters():
    z, y = blobs([30, 30])
    a, b = (_kmeans.fit(z, y, 2, 3, rng(7)) for _ in range(2))
    assert torch.equal(a.centers, b.centers)
    assert not torch.equal(a.centers, _kmeans.fit(z, y, 2, 3, rng(8), iterations=1).centers)


@given(st.lists(st.integers(0, 90), min_size=1, max_size=4).filter(any), st.integers(1, 6), st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_small_clusters_are_merged(per_class, k, seed):
    z, y = blobs(per_class, seed=seed)
    found = _kmeans.fit(z, y, len(per_class), k, rng(seed), smallest=20)
    assert found.counts.sum(1).tolist() == per_class
    for counts, size in zip(found.counts, per_class, strict=True):
        if size < 20:
            assert (counts > 0).sum() == (size > 0)
        else:
            assert counts[counts > 0].min() >= 20
    for c, j in (found.counts > 0).nonzero().tolist():
        assert found.variance[c, j].isfinite().all()


def test_a_small_cluster_goes_to_the_nearest_of_its_class():
    lumps = torch.tensor([0.0, 10.0, 14.0]).repeat_interleave(torch.tensor([30, 30, 5]))
    z = (lumps + 0.1 * torch.randn(65, generator=rng()))[:, None]
    start = torch.tensor([[[0.0], [10.0], [14.0]]])
    y = torch.zeros(65, dtype=torch.long)
    assert _kmeans.fit(z, y, 1, 3, rng(), start=start).counts.tolist() == [[30, 30, 5]]
    found = _kmeans.fit(z, y, 1, 3, rng(), start=start, smallest=20)
    assert found.counts.tolist() == [[30, 35, 0]]
    assert float(found.centers[0, 1]) == pytest.approx(float(z[30:].mean()), rel=1e-5)
    assert float(found.variance[0, 1]) == pytest.approx(float(z[30:].var(correction=0)), rel=1e-4)


@pytest.mark.parametrize("smallest", [0, 1])
def test_nothing_is_merged_unless_asked(smallest):
    z, y = blobs([60, 33, 120])
    plain, asked = (_kmeans.fit(z, y, 3, 4, rng(), **option) for option in ({}, {"smallest": smallest}))
    assert torch.equal(plain.counts, asked.counts)
    assert torch.equal(plain.variance, asked.variance)


def test_deviations_of_other_samples():
    z, y = blobs([40, 70, 0])
    found = _kmeans.fit(z, y, 3, 2, rng())
    other, of = blobs([9, 5, 2], seed=4)
    found.counts[0, 1] = 0  # as if it had been merged
    counts, squares = _kmeans.deviations(other, of, found)
    assert counts.tolist()[0] == [9, 0]
    assert counts.tolist()[2] == [2, 0]  # no cluster to go to
    near = torch.cdist(other[of == 1], found.centers[1]).argmin(1)
    for j in range(2):
        expected = (other[of == 1][near == j] - found.centers[1, j]).square().sum(0)
        torch.testing.assert_close(squares[1, j], expected)


def test_squares_are_the_same_in_parts(monkeypatch):
    z, y = torch.randn(300, 4, generator=rng()), torch.arange(300) % 3
    whole = _kmeans.fit(z, y, 3, 2, rng())
    monkeypatch.setattr(_kmeans, "ELEMENTS_AT_ONCE", 7 * 3 * 4)
    parts = _kmeans.fit(z, y, 3, 2, rng())
    assert torch.equal(parts.counts, whole.counts)
    assert torch.allclose(parts.variance, whole.variance, rtol=1e-5)
