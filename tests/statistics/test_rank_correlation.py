"""Rank correlation against scipy, and its interval against repetitions of an experiment whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats

from splitveil.errors import UserError
from splitveil.statistics.rank_correlation import rank_correlation, spearman

SPEARMANR: Any = stats.spearmanr


@pytest.mark.parametrize("levels", [1000, 4])
def test_it_is_scipys_with_and_without_ties(levels):
    rng = torch.Generator().manual_seed(levels)
    x, y = torch.randint(levels, (2, 5, 12), generator=rng).double()
    expected = [SPEARMANR(a, b).statistic for a, b in zip(x, y, strict=True)]
    assert spearman(x, y).tolist() == pytest.approx(expected)
    assert rank_correlation(x[0], y[0]).mean == pytest.approx(expected[0])


@pytest.mark.parametrize(("count", "correlation"), [(6, 0.95), (16, 0.99), (12, 0.0)])
def test_the_interval_holds_the_truth_as_often_as_it_says(count, correlation):
    """Few pairs are where the bootstrap alone holds it in 77 % of cases, many where Fisher's z alone does in 83 %."""
    rng, repetitions = torch.Generator().manual_seed(count), 150
    truth = 6 / math.pi * math.asin(correlation / 2)  # of two normal variables
    x, noise = torch.randn(2, repetitions, count, generator=rng, dtype=torch.float64)
    y = correlation * x + math.sqrt(1 - correlation**2) * noise
    found = [rank_correlation(a, b, resamples=300) for a, b in zip(x, y, strict=True)]
    assert sum(one.lo <= truth <= one.hi for one in found) / repetitions > 0.9
    assert all(-1 <= one.lo <= one.mean <= one.hi <= 1 for one in found)


def test_the_interval_narrows_and_turns_with_the_sign():
    few, many = (rank_correlation(range(n), range(n)) for n in (5, 20))
    assert 0 < few.lo < many.lo < many.hi == few.hi == 1
    other = rank_correlation(range(5), range(5, 0, -1))
    assert (other.lo, other.mean, other.hi) == pytest.approx((-1, -1, -few.lo))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2, 3], [1, 2, 3], "at least 4"),
        ([1, 2, 3, 4], [1, 2, 3, 4, 5], "the same number of both"),
        ([1, 2, 3, math.nan], [1, 2, 3, 4], "NaN or infinite"),
        ([1, 2, 3, 4], [1, 1, 1, 1], "all equal"),
    ],
)
def test_what_has_no_order_is_refused(x, y, message):
    with pytest.raises(UserError, match=message):
        rank_correlation(x, y)
