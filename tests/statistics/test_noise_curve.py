"""The error of noise alone at a given accuracy, and how sure a difference to it is: against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression

from splitveil.errors import UserError
from splitveil.statistics.evidence import quantile
from splitveil.statistics.intervals import expansion
from splitveil.statistics.noise_curve import at_accuracies, at_equal_accuracy, isotonic, on_curve

SIGMAS = (0.025, 0.05, 0.1, 0.2, 0.4)


def accuracy_of(sigma: np.ndarray) -> np.ndarray:
    return 0.9 - 0.5 * sigma


def log_mse_of(sigma: np.ndarray) -> np.ndarray:
    return -4.5 + 0.8 * np.log(1 + sigma / 0.05)


def simulated(
    rng: np.random.Generator,
    seeds: int,
    *,
    sigma: float,
    change: float,
    spread: tuple[float, float] = (0.02, 0.1),
    images: tuple[int, int] = (60, 800),
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Errors and answers of trainings: noise alone at each strength, and a defense as accurate as noise at ``sigma``.

    Its log error is ``change`` above that of noise. Seeds vary accuracy and log error by ``spread``; images are hard
    or easy for all alike, and there are so many attacked ones and test images.
    """
    places = np.array([*SIGMAS, sigma])
    errors, hits = [], []
    for _ in range(seeds):
        log = log_mse_of(places) + spread[1] * rng.normal(size=len(places))
        log[-1] += change
        hard = rng.gamma(4, 0.25, size=images[0])
        errors.append(np.exp(log)[:, None] * hard * rng.gamma(20, 0.05, size=(len(places), images[0])))
        share = accuracy_of(places) + spread[0] * rng.normal(size=len(places))
        hits.append((rng.uniform(size=images[1]) < share[:, None]).astype(float))  # an image is as hard for all
    return errors, hits


# The curve


def test_isotonic_regression_is_scipys():
    values = np.random.default_rng(0).normal(size=(40, 7)) + 0.3 * np.arange(7)
    ours = isotonic(values.reshape(8, 5, 7)).reshape(40, 7)
    assert np.allclose(ours, [isotonic_regression(row).x for row in values])


def test_a_monotone_curve_is_read_as_pchip_reads_it():
    places = np.array(SIGMAS)
    between = np.exp(np.linspace(np.log(0.026), np.log(0.39), 50))
    accuracy, log_mse = accuracy_of(places), log_mse_of(places)
    wanted = PchipInterpolator(np.log(places), accuracy)(np.log(between))
    found, inside = on_curve(SIGMAS, accuracy[None], log_mse[None], wanted)
    assert inside.all()
    assert found == pytest.approx(PchipInterpolator(np.log(places), log_mse)(np.log(between)), abs=2e-4)
    exact = log_mse_of((0.9 - wanted) / 0.5)  # of the line that the points were taken from
    assert found == pytest.approx(exact, abs=0.03)


@pytest.mark.parametrize(("wanted", "end"), [(0.95, 0), (0.65, -1)])
def test_nothing_is_extrapolated(wanted, end):
    places = np.array(SIGMAS)
    found, inside = on_curve(SIGMAS, accuracy_of(places), log_mse_of(places), np.array(wanted))
    assert not inside
    assert found == pytest.approx(log_mse_of(places)[end])


def test_where_noise_costs_nothing_the_strongest_counts():
    accuracy, log_mse = np.array([0.9, 0.9, 0.9, 0.8, 0.7]), np.arange(5.0)
    for wanted in (0.9, 0.9 - 1e-9):
        assert on_curve(SIGMAS, accuracy, log_mse, np.array(wanted))[0] == pytest.approx(2, abs=1e-3)


# The difference


def test_exact_trainings_give_the_exact_difference():
    """No seed and no image varies: what is left is the error of the interpolation, which is none at its points."""
    places = np.array([*SIGMAS, 0.2])
    for change in (0.0, 0.3):
        log = log_mse_of(places) + change * (np.arange(6) == 5)
        errors = [np.exp(log)[:, None] * np.ones(10)] * 3
        hits = [(np.arange(1000) < 1000 * accuracy_of(places)[:, None] - 0.5).astype(float)] * 3
        (found,) = at_equal_accuracy(SIGMAS, errors, hits, shared=(True, True), resamples=200)
        assert found.difference is not None
        assert found.difference.mean == pytest.approx(change, abs=0.01)
        assert found.reference == pytest.approx(np.exp(log_mse_of(np.array(0.2))), rel=0.01)


@pytest.mark.parametrize(("seeds", "change"), [(3, 0.0), (5, 0.3)])
def test_about_95_of_100_intervals_hold_the_true_difference(seeds, change):
    rng, held, widths = np.random.default_rng(seeds), 0, []
    while len(widths) < 200:
        errors, hits = simulated(rng, seeds, sigma=0.25, change=change)
        (found,) = at_equal_accuracy(SIGMAS, errors, hits, resamples=100)
        if found.difference is None:  # of few seeds it cannot always be told from the end of the curve
            assert found.at_end
            continue
        held += found.difference.lo <= change <= found.difference.hi
        widths.append(found.difference.hi - found.difference.lo)
    assert 0.92 <= held / 200 <= 0.995
    assert np.median(widths) < (1.4 if seeds == 3 else 0.7)


@pytest.mark.parametrize("images", [(3, 800), (10, 800), (60, 20)])
def test_of_one_seed_and_few_images_too_about_95_of_100_intervals_hold_the_true_difference(images):
    rng, held, beside = np.random.default_rng(images[0]), [], []
    for _ in range(200):
        errors, hits = simulated(rng, 1, sigma=0.3, change=0.3, spread=(0, 0), images=images)
        (found,) = at_equal_accuracy(SIGMAS, errors, hits, resamples=100)
        true = 0.3 + float(log_mse_of(np.array(0.3)) - log_mse_of(np.array(0.1)))
        beside.append(found.raw[0.1].lo <= true <= found.raw[0.1].hi)
        if found.difference:
            held.append(found.difference.lo <= 0.3 <= found.difference.hi)
    assert len(held) > 70  # with so few test images it cannot always be told from the end of the curve
    assert 0.92 <= np.mean(held) <= 0.995
    assert 0.92 <= np.mean(beside) <= 0.995


@pytest.mark.parametrize("seeds", [1, 4])
@pytest.mark.parametrize("count", [10, 29, 30])
def test_few_images_that_seeds_share_widen_the_interval_by_the_expansion(seeds, count):
    """Seeds that are alike leave the images alone to vary: against the closed form of a ratio of means."""
    errors, hits = simulated(np.random.default_rng(2), 1, sigma=0.3, change=0.0, spread=(0, 0), images=(count, 800))
    (found,) = at_equal_accuracy(SIGMAS, errors * seeds, hits * seeds, shared=(True, True))
    (noise, own) = (errors[0][row] / errors[0][row].mean() for row in (2, 5))
    half = quantile(seeds) * expansion(count) * (own - noise).std() / np.sqrt(count)
    assert found.raw[0.1].hi - found.raw[0.1].mean == pytest.approx(half, rel=0.03)


def test_images_that_seeds_share_are_not_averaged_out():
    errors, hits = simulated(np.random.default_rng(0), 5, sigma=0.14, change=0.0, spread=(0, 0))
    errors, hits = [errors[0]] * 5, [hits[0]] * 5
    own, shared = (at_equal_accuracy(SIGMAS, errors, hits, shared=(s, s))[0].difference for s in (False, True))
    assert own is not None
    assert shared is not None
    assert shared.hi - shared.lo == pytest.approx(2 * (own.hi - own.lo), rel=0.15)  # four of five seeds are drawn


def test_a_defense_outside_the_curve_gets_no_difference():
    errors, hits = simulated(np.random.default_rng(0), 3, sigma=0.9, change=0.0)
    (found,) = at_equal_accuracy(SIGMAS, errors, hits, resamples=100)
    assert (found.difference, found.reference) == (None, None)
    assert found.beyond > 0.9


def test_at_the_upper_end_of_a_flat_curve_chance_says_nothing():
    """Noise of 0.1 and 0.2 costs next to nothing: the strongest noise that is as accurate is then a matter of luck."""
    rng, sigmas, mse = np.random.default_rng(5), (0.1, 0.2, 0.4), np.array([0.0100, 0.0135, 0.0190, 0.0100])
    said = []
    for _ in range(60):
        hardness, errors, hits = rng.random(2000), [], []
        for _ in range(4):
            share = np.array([0.8, 0.7985, 0.775, 0.8]) + rng.normal(0, 0.004, 4)
            hits.append((hardness[None] < share[:, None]).astype(float))
            drawn = np.exp(rng.normal(0, 0.03, (4, 1)) + 0.5 * rng.normal(0, 1, 60) - 0.125)
            errors.append(mse[:, None] * drawn)
        (found,) = at_equal_accuracy(sigmas, errors, hits, shared=(False, True), resamples=100)
        said.append(found.difference is not None)
        assert found.at_end or found.reference is None or said[-1]
    assert np.mean(said) < 0.09  # 0.05 on average; without a look at the end it is about half


def test_what_is_no_curve_is_refused():
    errors, hits = simulated(np.random.default_rng(0), 1, sigma=0.1, change=0.0)
    for sigmas in (SIGMAS[:2], (0.1, 0.1, 0.2), (0.0, 0.1, 0.2)):
        with pytest.raises(UserError, match="expected 3 or more, rising"):
            at_equal_accuracy(sigmas, errors, hits)
    with pytest.raises(UserError, match="expected the same of both"):
        at_equal_accuracy(SIGMAS, errors, [hits[0][:4]])


# At named accuracies

STRENGTHS = (1, 4, 16, 64)


def two_curves(change: float, seeds: int = 3) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Exact trainings of noise alone and of a defense whose log error is ``change`` above it at every accuracy."""
    places = np.array([*SIGMAS, 0.025, 0.08, 0.15, 0.3])
    log = log_mse_of(places) + change * (np.arange(9) >= len(SIGMAS))
    hits = (np.arange(1000) < 1000 * accuracy_of(places)[:, None] - 0.5).astype(float)
    return [np.exp(log)[:, None] * np.ones(10)] * seeds, [hits] * seeds


@pytest.mark.parametrize("change", [0.0, 0.3, -0.2])
def test_at_named_accuracies_exact_curves_give_the_exact_difference(change):
    found = at_accuracies(SIGMAS, STRENGTHS, (0.86, 0.8, 0.77), *two_curves(change), shared=(True, True), resamples=200)
    assert [one.accuracy for one in found] == [0.86, 0.8, 0.77]
    for one in found:
        assert one.difference is not None
        assert one.difference.mean == pytest.approx(change, abs=0.03)
        exact = np.exp(log_mse_of(np.array((0.9 - one.accuracy) / 0.5)))
        assert one.reference == pytest.approx(exact, rel=0.03)
        assert one.mse == pytest.approx(exact * np.exp(change), rel=0.03)


def test_at_named_accuracies_an_interval_over_seeds_is_as_at_equal_accuracy():
    """Where the defense has one of its points, reading its curve is reading this point."""
    rng = np.random.default_rng(1)
    errors, hits = two_curves(0.3, 5)
    errors = [values * np.exp(0.1 * rng.normal(size=(9, 1))) * rng.gamma(20, 0.05, size=(9, 10)) for values in errors]
    kwargs = {"shared": (False, True), "resamples": 400}
    rows = [*range(len(SIGMAS)), 6]  # noise alone, and the defense's second strength
    (own,) = at_equal_accuracy(SIGMAS, [e[rows] for e in errors], [h[rows] for h in hits], **kwargs)
    (named,) = at_accuracies(SIGMAS, STRENGTHS, (own.accuracy,), errors, hits, **kwargs)
    assert own.difference is not None
    assert named.difference is not None
    assert named.difference.mean == pytest.approx(own.difference.mean, abs=0.15)
    assert named.difference.hi - named.difference.lo == pytest.approx(own.difference.hi - own.difference.lo, rel=0.5)


@pytest.mark.parametrize("accuracy", [0.895, 0.72])
def test_at_accuracies_that_a_curve_does_not_reach_nothing_is_said(accuracy):
    (found,) = at_accuracies(SIGMAS, STRENGTHS, (accuracy,), *two_curves(0.3), resamples=50)
    assert (found.difference, found.reference, found.mse) == (None, None, None)
    assert found.beyond > 0.5


def test_two_curves_with_rows_that_do_not_fit_are_refused():
    errors, hits = two_curves(0.0)
    with pytest.raises(UserError, match=r"two curves got 9 rows; expected 5 of noise \+ 3"):
        at_accuracies(SIGMAS, STRENGTHS[:3], (0.8,), errors, hits)
    with pytest.raises(UserError, match="expected 3 or more, rising"):
        at_accuracies(SIGMAS, (4, 1, 16, 64), (0.8,), errors, hits)
