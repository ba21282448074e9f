"""Intervals against normal theory, the score equation and simulation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.errors import UserError
from splitveil.statistics import intervals
from splitveil.statistics.intervals import Interval, binomial_ci, bootstrap_ci, paired_difference


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
