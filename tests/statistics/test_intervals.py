"""Intervals against normal theory, the score equation and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.errors import UserError
from splitveil.statistics import intervals
from splitveil.statistics.intervals import (
    FEW,
    Interval,
    binomial_ci,
    bootstrap_ci,
    bounded_ci,
    expansion,
    paired_difference,
    paired_hits,
    paired_ratio,
    student_over_normal,
)


def test_bootstrap_agrees_with_normal_theory():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    interval = bootstrap_ci(values, torch.Generator().manual_seed(1), resamples=4000)
    half = 1.959964 * values.std(correction=0).item() / math.sqrt(4000)
    assert interval.mean == pytest.approx(values.mean().item())
    assert interval.hi - interval.mean == pytest.approx(half, rel=0.08)
    assert interval.mean - interval.lo == pytest.approx(half, rel=0.08)


def test_bootstrap_covers_the_true_mean_as_often_as_it_says():
    rng = torch.Generator().manual_seed(2)
    held = 0
    for _ in range(400):
        interval = bootstrap_ci(torch.rand(60, generator=rng), rng, level=0.9, resamples=300)
        held += interval.lo <= 0.5 <= interval.hi
    assert 0.84 < held / 400 < 0.94  # 0.9 less about 0.01 for n = 60; four standard errors are 0.06


@pytest.mark.parametrize("count", [2, 3, 5, 10, 20])
def test_few_errors_are_enough_for_an_interval_that_holds(count):
    """Gamma errors, as of attacked images; percentiles alone hold 0.47, 0.76, 0.82 and 0.92 of 2, 3, 5 and 10."""
    rng = np.random.default_rng(count)
    mean = ratio = difference = 0
    for _ in range(400):
        a, b = rng.gamma(4, 0.005, count), rng.gamma(4, 0.005, count)
        for_mean, for_ratio, change = bootstrap_ci(a), paired_ratio(a, b), paired_difference(a, b)
        mean += for_mean.lo <= 0.02 <= for_mean.hi
        ratio += for_ratio.lo <= 1 <= for_ratio.hi
        difference += change.lo <= 0 <= change.hi
        assert 0 < for_ratio.lo <= for_ratio.mean <= for_ratio.hi
    assert min(mean, ratio, difference) / 400 > 0.90  # skewed values cost some of the 0.95


def test_from_thirty_values_on_the_percentiles_are_the_interval():
    values = torch.rand(FEW, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    drawn = torch.randint(FEW, (2000, FEW), generator=torch.Generator().manual_seed(0))
    low, high = values[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    found = bootstrap_ci(values)
    assert (found.lo, found.hi) == pytest.approx((low, high), rel=1e-12)
    assert (expansion(FEW), student_over_normal(FEW)) == (1, 1)
    assert 1.05 < expansion(FEW - 1) < 1.07


def test_the_expansion_makes_the_interval_of_two_values_as_wide_as_their_number_asks():
    """Of two values the percentiles are the values: the ends are 12.71/1.96·√2 times as far from the mean."""
    found = bootstrap_ci([0.1, 0.3])
    assert (found.lo, found.hi) == pytest.approx((0.2 - 0.9168, 0.2 + 0.9168), abs=1e-3)
    assert bootstrap_ci([0.1, 0.3], least=0.0).lo == 0


def test_ratios_of_few_images_have_no_end_where_there_is_no_logarithm():
    assert paired_ratio([0.0, 0.0], [1.0, 2.0]) == Interval(0, 0, 0)
    found = paired_ratio([0.0, 2.0], [1.0, 1.0])
    assert (found.lo, found.mean) == (0, 1)
    assert paired_ratio([-1.0, -2.0], [1.0, 1.0]).lo < -2
    assert math.isfinite(paired_ratio([1e-30, 1e30], [1e30, 1e-30]).hi)


def test_bootstrap_repeats_and_its_memory_is_bounded(monkeypatch):
    values = torch.arange(100.0)
    once = bootstrap_ci(values)
    assert once == bootstrap_ci(values.numpy()) == bootstrap_ci(values.tolist())
    assert once != bootstrap_ci(values, torch.Generator().manual_seed(5))
    monkeypatch.setattr(intervals, "ELEMENTS_AT_ONCE", 1000)  # 10 resamples at a time
    rows = []
    randint = torch.randint
    monkeypatch.setattr(torch, "randint", lambda high, size, **kw: rows.append(size[0]) or randint(high, size, **kw))
    bootstrap_ci(values, resamples=25)
    assert rows == [10, 10, 5]


def test_paired_difference_cancels_the_spread_of_the_images():
    rng = torch.Generator().manual_seed(3)
    hard = torch.rand(200, generator=rng)
    noise = 0.01 * torch.randn(200, generator=rng)
    interval = paired_difference(hard + 0.05 + noise, hard, rng)
    assert interval.lo < 0.05 < interval.hi
    assert interval.hi - interval.lo < 0.1 * (bootstrap_ci(hard, rng).hi - bootstrap_ci(hard, rng).lo)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), n=st.integers(1, 5000))
def test_wilson_bounds_solve_the_score_equation(data, n):
    correct = data.draw(st.integers(0, n))
    interval = binomial_ci(correct, n)
    share = correct / n
    assert 0 <= interval.lo <= share <= interval.hi <= 1
    for bound in (interval.lo, interval.hi):
        if bound not in (0.0, 1.0):
            assert (share - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / n, rel=1e-4, abs=1e-12)


def test_wilson_at_the_borders_is_not_empty():
    assert binomial_ci(0, 50).lo == 0
    assert binomial_ci(0, 50).hi == pytest.approx(0.07135, abs=1e-4)
    assert binomial_ci(50, 50).lo == pytest.approx(1 - 0.07135, abs=1e-4)


def hits(both: int, first: int, second: int, neither: int) -> tuple[list[int], list[int]]:
    """Hits of two sides on the same images, from the four counts of Newcombe's tables."""
    return [1] * (both + first) + [0] * (second + neither), [1] * both + [0] * first + [1] * second + [0] * neither


@pytest.mark.parametrize(
    ("counts", "published"),
    [
        ((36, 12, 2, 0), (0.2, 0.0569, 0.3404)),  # Newcombe, Statistics in Medicine 17, 1998, 2635-2650, method 10
        ((1, 1, 7, 12), (-0.2857, -0.507, -0.026)),  # Fagerland, Lydersen and Laake, Statistics in Medicine 33, 2014
    ],
)
def test_paired_hits_are_what_was_published(counts, published):
    found = paired_hits(*hits(*counts))
    assert (found.mean, found.lo, found.hi) == pytest.approx(published, abs=6e-4 if counts[0] == 1 else 6e-5)


@pytest.mark.parametrize("n", [1, 100, 10_000])
def test_answers_that_all_agree_leave_the_width_of_wilsons_interval(n):
    """Where all are hits, or none is, the interval ends where Wilson's does: at z² / (n + z²)."""
    most = 1.959964**2 / (n + 1.959964**2)
    for value in (0, 1):
        found = paired_hits([value] * n, [value] * n)
        assert (found.mean, found.lo, found.hi) == pytest.approx((0, -most, most), rel=1e-5)


@settings(max_examples=50, deadline=None)
@given(counts=st.tuples(*[st.integers(0, 60)] * 4).filter(sum))
def test_paired_hits_do_not_depend_on_the_names_of_the_sides_or_of_the_outcomes(counts):
    a, b = hits(*counts)
    found = paired_hits(a, b)
    assert -1 <= found.lo <= found.mean <= found.hi <= 1
    for other in (paired_hits(b, a), paired_hits([1 - x for x in a], [1 - x for x in b])):
        assert (other.mean, other.lo, other.hi) == pytest.approx((-found.mean, -found.hi, -found.lo), abs=1e-9)


@pytest.mark.parametrize(("n", "losses", "right"), [(100, 0.02, 1.0), (200, 0.01, 0.9), (1000, 0.003, 0.8)])
def test_paired_hits_hold_a_rare_loss(n, losses, right):
    """The bootstrap of the differences is a point in one experiment of seven or more, and holds it in 0.4 to 0.9."""
    rng, held, plain = torch.Generator().manual_seed(4), 0, 0
    for _ in range(300):
        before = torch.rand(n, generator=rng) < right
        after = before & (torch.rand(n, generator=rng) >= losses / right)
        found = paired_hits(after, before)
        held += found.lo <= -losses <= found.hi
        plain += int((after == before).all())
    assert held / 300 > 0.93
    assert plain > 10  # in these the bootstrap says [0, 0]


@pytest.mark.parametrize(("n", "lost"), [(40, 0.03), (400, 0.003)])
def test_the_mean_of_chances_is_held_where_few_of_them_are_below_one(n, lost):
    rng, held, points = torch.Generator().manual_seed(5), 0, 0
    for _ in range(300):
        chances = torch.where(torch.rand(n, generator=rng) < lost, 0.3, 1.0).double()
        found = bounded_ci(chances)
        held += found.lo <= 1 - 0.7 * lost <= found.hi
        points += int((chances == 1).all())
    assert held / 300 > 0.93
    assert points > 10  # in these the bootstrap says [1, 1]


def test_a_mean_of_chances_has_no_narrower_interval_than_the_bootstrap_or_wilson():
    rng = torch.Generator().manual_seed(6)
    for chances in (torch.rand(50, generator=rng), (torch.rand(50, generator=rng) < 0.1).double(), torch.ones(50)):
        found, drawn = bounded_ci(chances), bootstrap_ci(chances)
        assert found.mean == drawn.mean
        assert 0 <= found.lo <= drawn.lo
        assert drawn.hi <= found.hi <= 1
    assert (found.lo, found.hi) == (binomial_ci(50, 50).lo, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_ci([1.0]), r"shape \(1,\); expected \(n,\), n at least 2"),
        (lambda: bootstrap_ci(torch.zeros(2, 2)), r"shape \(2, 2\)"),
        (lambda: bootstrap_ci([1.0, math.inf, math.nan]), "2 of 3 values that are NaN or infinite"),
        (lambda: bootstrap_ci([1.0, 2.0], level=95), "level=95; expected a share between 0 and 1"),
        (lambda: bootstrap_ci([1.0, 2.0], resamples=0), "resamples=0"),
        (
            lambda: paired_difference([1.0, 2.0], [1.0]),
            r"\(2,\) and \(1,\) values; expected both from the same images",
        ),
        (lambda: binomial_ci(5, 4), "5 correct of 4"),
        (lambda: bounded_ci([0.5, 1.5]), r"from 0\.5 to 1\.5; expected chances"),
        (lambda: bounded_ci([0.5]), r"shape \(1,\); expected \(n,\), n at least 2"),
        (lambda: paired_hits([1, 0], [1]), r"\(2,\) and \(1,\) values; expected both \(n,\), n at least 1"),
        (lambda: paired_hits([], []), "n at least 1"),
        (lambda: paired_hits([1.0, 0.5], [1, 0]), "other than 0 and 1; expected whether each is a hit"),
        (lambda: paired_hits([1.0, math.nan], [1, 0]), "other than 0 and 1"),
        (lambda: paired_hits([1], [1], level=95), "level=95"),
        (lambda: binomial_ci(0, 0), "0 correct of 0"),
    ],
)
def test_bad_samples_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_an_interval_prints_two_digits_of_its_width():
    assert str(Interval(0.91234, 0.90121, 0.92311)) == "0.912 [0.901, 0.923]"
    assert str(Interval(18.3651, 18.1, 18.6)) == "18.37 [18.10, 18.60]"
    assert str(Interval(1.0, 1.0, 1.0)) == "1 [1, 1]"
    assert str(Interval(0.3, 0.3 - 5e-17, 0.3 + 5e-17)) == "0.3 [0.3, 0.3]"
    assert Interval(0.5, 0.4, 0.6, level=0.9).as_dict() == {"mean": 0.5, "ci90": [0.4, 0.6]}


def test_a_ratio_has_an_interval_where_most_errors_below_it_are_zero():
    """Samples of zeros alone have no ratio; the interval's end was NaN."""
    below = torch.zeros(40)
    below[0] = 1.0
    for values in (below, below + 1):
        found = paired_ratio(values, below)
        assert 0 <= found.lo <= found.mean <= found.hi < math.inf
