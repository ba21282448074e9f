"""Intervals over trainings, corrected p values: against closed forms, the bootstrap itself, and simulated nulls."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from splitveil.results.comparison_rows import Pending, Row, judged, row_of
from splitveil.statistics.evidence import combined, hierarchical, holm, over_seeds, p_value
from splitveil.statistics.intervals import Interval, binomial_ci, bootstrap_ci

SEED_SPREAD, IMAGE_SPREAD = {"mse": 0.0019, "accuracy": 0.025}, {"mse": 0.0035, "accuracy": 0.16}
"""As measured: standard deviations over training seeds, and over the images of a difference of two trainings."""
IMAGES = {"mse": 100, "accuracy": 1000}


# Intervals


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_of_balanced_normal_data_the_interval_is_students(count):
    """Where seeds vary far more than images, as in balanced data with many images each."""
    rng = np.random.default_rng(count)
    seeds = rng.normal(size=count)
    changes = [mean + rng.normal(size=2000) * 0.1 for mean in seeds]
    ours = hierarchical(changes)
    means = [change.mean() for change in changes]
    low, high = stats.t.interval(0.95, count - 1, np.mean(means), stats.sem(means))
    assert ours.mean == pytest.approx(np.mean(means))
    assert (ours.lo, ours.hi) == pytest.approx((low, high), rel=1e-3)
    assert over_seeds(means).lo == pytest.approx(low, rel=1e-9)


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_the_variance_is_that_of_the_resampled_bootstrap(spread):
    """Unequal numbers of images, little and much spread of images: samples of pairs, then of images within each."""
    rng, samples = np.random.default_rng(3), 8000
    changes = [rng.normal(mean, spread, size) for mean, size in ((0.2, 10), (-0.4, 40), (1.0, 25), (0.3, 20))]
    count = len(changes)
    # For each sample and place in it, a mean of every pair's resampled images; then the pair that was drawn there.
    means = [change[rng.integers(len(change), size=(samples, count, len(change)))].mean(2) for change in changes]
    drawn = np.take_along_axis(np.stack(means), rng.integers(count, size=(1, samples, count)), 0)[0].mean(1)
    means = [change.mean() for change in changes]
    bessel = np.var(means) / (count - 1) - np.var(means) / count  # n − 1 where the bootstrap has n
    half = stats.t.ppf(0.975, count - 1) * math.sqrt(np.var(drawn) + bessel)
    ours = hierarchical(changes)
    assert ours.hi - ours.mean == pytest.approx(half, rel=0.03)  # its variance is known to 2 %


@pytest.mark.parametrize("count", [3, 5, 10])
def test_trainings_that_share_their_test_images_do_not_average_these_out(count):
    """Some images are hard for every training: the accuracy that the population would have lies farther away."""
    rng, held = np.random.default_rng(count), {True: 0, False: 0}
    for _ in range(300):
        hardness = rng.beta(0.8, 0.2, size=500)
        parts = [binomial_ci(int((rng.random(500) < hardness).sum()), 500) for _ in range(count)]
        for shared in held:
            found = combined(parts, 0, 1, shared=shared)
            held[shared] += found.lo <= 0.8 <= found.hi
    assert held[True] / 300 > 0.93
    assert count == 3 or held[False] / 300 < 0.93  # as if each had images of its own


def test_images_that_all_pairs_share_are_drawn_once_for_all():
    """Equal changes in every pair: only the images are left, and more seeds do not average them out."""
    change = np.random.default_rng(0).normal(size=50)
    for count in (3, 10):
        half = stats.t.ppf(0.975, count - 1) * change.std() / math.sqrt(50)
        shared, own = (hierarchical([change] * count, shared) for shared in (True, False))
        assert shared.hi - shared.mean == pytest.approx(half)
        assert own.hi - own.mean == pytest.approx(half / math.sqrt(count))


@pytest.mark.parametrize("images", [3, 5, 30])
def test_few_images_that_all_pairs_share_are_enough_for_an_interval_that_holds(images):
    rng, held = np.random.default_rng(images), 0
    for _ in range(400):
        hardness = rng.normal(0.3, 1, size=images)  # of every training alike
        found = hierarchical([hardness + 0.1 * rng.normal(size=images) for _ in range(10)], shared=True)
        held += found.lo <= 0.3 <= found.hi
    assert held / 400 > 0.93


def test_hits_that_all_agree_leave_a_width():
    """Three pairs of trainings with the same answers to 100 images do not show that no image tells them apart."""
    same, three = np.zeros(100), stats.t.ppf(0.975, 2)
    least = 1.959964 / (100 + 1.959964**2)
    for shared, half in ((True, three * least), (False, three * least / math.sqrt(3))):
        found = hierarchical([same] * 3, shared, hits=True)
        assert (found.mean, found.lo, found.hi) == pytest.approx((0, -half, half), rel=1e-5)
    assert hierarchical([same] * 3).hi == 0  # as of errors, which are not all alike by chance
    many = np.array([1.0] * 30 + [0.0] * 60 + [-1.0] * 10)
    assert hierarchical([many] * 3, hits=True) == hierarchical([many] * 3)


def test_intervals_take_the_place_of_images_that_were_not_paired():
    halves = [Interval(0.1 * place, 0.1 * place - 0.5, 0.1 * place + 0.5) for place in range(4)]
    ours = hierarchical(halves, shared=True)
    seeds = over_seeds([part.mean for part in halves])
    error = (seeds.hi - seeds.mean) / stats.t.ppf(0.975, 3)
    images = 0.5 / stats.norm.ppf(0.975) / 2
    assert ours.hi - ours.mean == pytest.approx(stats.t.ppf(0.975, 3) * math.hypot(error, images))


@pytest.mark.parametrize("trainings", [3, 5])
def test_in_95_of_100_repetitions_the_interval_holds_the_truth(trainings):
    rng = np.random.default_rng(trainings)
    held = 0
    for _ in range(1000):
        changes = [rng.normal(0.3, 1) + rng.normal(size=30) for _ in range(trainings)]
        held += (found := hierarchical(changes)).lo <= 0.3 <= found.hi
    assert 940 <= held <= 990  # 949 expected of Student's, which it is never narrower than


# P values


@pytest.mark.parametrize("count", [3, 4, 9])
def test_the_p_value_is_that_of_students_test(count):
    values = np.random.default_rng(count).normal(1, 1, count)
    assert p_value(over_seeds(list(values)), count) == pytest.approx(stats.ttest_1samp(values, 0)[1])


def test_the_p_value_of_one_pair_is_the_normal_one():
    assert p_value(Interval(2, 2 - 1.959964, 2 + 1.959964)) == pytest.approx(2 * stats.norm.sf(2), rel=1e-5)
    assert p_value(Interval(-2, -9, -2 + 1.959964)) == pytest.approx(2 * stats.norm.sf(2), rel=1e-5)
    assert p_value(Interval(0, 0, 0)) == 1
    assert p_value(Interval(1, 1, 1)) == 0


def test_the_p_value_of_shares_is_that_of_the_whole_interval_although_it_is_cut_where_it_is_shown():
    """Two pairs, in which 30 and 90 of 100 images are answered right where none was: the interval ends at −3.2."""
    changes = [torch.tensor([1.0] * hits + [0.0] * (100 - hits)) for hits in (30, 90)]
    none = torch.zeros(100)
    parts = [Pending("network", "accuracy", none, change, change, hits=(none, change)) for change in changes]
    row = row_of(parts, iter(()))
    assert (row.difference.lo, row.difference.hi) == (-1, 1)
    whole = hierarchical([change.numpy() for change in changes], hits=True)
    assert whole.lo < -3
    error = (whole.hi - whole.mean) / stats.t.ppf(0.975, 1)
    assert row.p == pytest.approx(2 * stats.t.sf(0.6 / error, 1))
    assert judged([row])[0].p == row.p
    assert row.p == pytest.approx(stats.ttest_1samp([0.3, 0.9], 0)[1], rel=0.1)  # 0.30; of the cut one 0.12


@pytest.mark.parametrize("truth", [(0.999, 0.999), (0.99, 0.999), (0.01, 0.99), (0.001, 0.01)])
@pytest.mark.parametrize("shared", [False, True])
def test_intervals_of_shares_near_0_and_1_hold_the_truth(truth, shared):
    """Of 100 images few, or none, tell the trainings apart; half of the images are as hard for all of them."""
    rng, held = np.random.default_rng(7), 0
    for _ in range(200):
        common = rng.random(100)
        changes = []
        for _ in range(5):
            alike = common if shared else rng.random(100)
            a, b = (np.where(rng.random(100) < 0.5, alike, rng.random(100)) < share for share in truth)
            changes.append(b.astype(float) - a)
        found = hierarchical(changes, shared, hits=True)
        held += found.lo <= truth[1] - truth[0] <= found.hi
    assert held / 200 > 0.93


@pytest.mark.parametrize("ends", [(0.01, 0.3), (-0.3, -0.01), (-0.01, 0.3), (-0.3, 0.01), (-1e-9, 1)])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_p_is_below_5_percent_where_the_interval_excludes_zero(ends, count):
    found = p_value(Interval(sum(ends) / 2, *ends), count)
    assert (found < 0.05) == (not ends[0] <= 0 <= ends[1])


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [
        ([0.01, 0.02, 0.03, 0.04], [0.04, 0.06, 0.06, 0.06]),  # 4 × 0.01, 3 × 0.02, then never lower
        ([0.04, 0.005, 0.03], [0.06, 0.015, 0.06]),  # 3 × 0.005, 2 × 0.03, 1 × 0.04
        ([0.7, 0.6], [1, 1]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holms_correction_by_hand(raw, corrected):
    assert holm(raw) == pytest.approx(corrected)


def test_holm_is_never_stricter_than_bonferroni():
    raw = np.random.default_rng(0).uniform(0, 0.1, 12)
    found = np.array(holm(raw.tolist()))
    assert (found >= raw).all()
    assert (found <= np.minimum(1, 12 * raw) + 1e-12).all()


# Verdicts on simulated trainings


def pairs(rng: np.random.Generator, trainings: int, effect: float = 0.0) -> list[Row]:
    """The rows that two sides of so many trainings give: error, two metrics that follow it, and the accuracy."""
    parts: dict[str, list[Pending]] = {"mse": [], "psnr": [], "ssim": [], "accuracy": []}
    for _ in range(trainings):
        seed = {name: spread * (rng.normal() - rng.normal()) for name, spread in SEED_SPREAD.items()}
        errors = seed["mse"] + effect + IMAGE_SPREAD["mse"] * rng.normal(size=IMAGES["mse"])
        hits = seed["accuracy"] + IMAGE_SPREAD["accuracy"] * rng.normal(size=IMAGES["accuracy"])
        related = {"psnr": -400 * errors + rng.normal(), "ssim": -10 * errors + 0.02 * rng.normal()}
        for name, change in {"mse": errors, **related, "accuracy": hits}.items():
            what = "network" if name == "accuracy" else "decoder"
            values = torch.from_numpy(change)
            parts[name].append(Pending(what, name, values, values, values, "d1"))
    drawn = iter([])
    if trainings == 1:
        drawn = (bootstrap_ci(value, resamples=200) for name in parts for value in [parts[name][0].change] * 3)
    return judged([row_of(found, drawn) for found in parts.values()])


def caused(rows: list[Row]) -> bool:
    """Whether a row blames the configuration."""
    return any(row.verdict.startswith(("higher", "lower")) for row in rows)


@pytest.mark.parametrize("trainings", [3, 4, 5])
def test_of_200_pairs_of_equal_configurations_at_most_5_percent_get_a_verdict(trainings):
    rng = np.random.default_rng(10 + trainings)
    assert sum(caused(pairs(rng, trainings)) for _ in range(200)) <= 10


@pytest.mark.parametrize("trainings", [1, 2])
def test_too_few_trainings_never_get_a_verdict(trainings):
    """Though most pairs of single trainings differ beyond their images, and are told so."""
    rng = np.random.default_rng(0)
    found = [pairs(rng, trainings) for _ in range(25)]
    assert not any(map(caused, found))
    if trainings == 1:
        assert sum(row.verdict == "differs in these two trainings" for rows in found for row in rows) > 25


@pytest.mark.parametrize(("trainings", "effect"), [(3, 0.03), (5, 0.01), (8, -0.008)])
def test_a_large_difference_is_found(trainings, effect):
    rng = np.random.default_rng(0)
    found = [pairs(rng, trainings, effect) for _ in range(100)]
    wanted = "higher: more private" if effect > 0 else "lower: less private"
    assert sum(rows[0].verdict == wanted for rows in found) >= 90


def test_a_mean_over_seeds_is_cut_where_no_value_can_lie():
    assert combined([Interval(0.9, 0.8, 1), Interval(1, 0.9, 1)], 0, 1).hi == 1
