"""Spearman's rank correlation with an interval that holds for few and for nearly ordered values."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .intervals import Interval

LEAST = 4
"""Pairs below which no interval is given: its standard error divides by their number less 3."""


def spearman(x: Tensor, y: Tensor) -> Tensor:
    """Return the correlation of the ranks of two variables; equal values share their mean rank.

    Args:
        x: (..., n).
        y: (..., n).

    Returns:
        (...), in [−1, 1]; NaN where all values of one variable are equal.

    >>> float(spearman(torch.tensor([1.0, 2.0, 3.0, 9.0]), torch.tensor([4.0, 3.0, 2.0, 1.0])))
    -1.0
    """
    from scipy.stats import rankdata

    first, second = (torch.from_numpy(rankdata(value.detach().cpu().numpy(), axis=-1)) for value in (x, y))
    first, second = first - first.mean(-1, keepdim=True), second - second.mean(-1, keepdim=True)
    return (first * second).sum(-1) / (first.square().sum(-1) * second.square().sum(-1)).sqrt()


def rank_correlation(
    x: Any, y: Any, rng: torch.Generator | None = None, level: float = 0.95, resamples: int = 2000
) -> Interval:
    """Return Spearman's rank correlation of independent pairs, with its interval.

    The interval is the hull of two. The percentile bootstrap over the pairs is too narrow for few pairs: of a perfect
    order it makes [1, 1]. Fisher's z with the variance (1 + r²/2)/(n − 3) (Bonett and Wright, "Sample size requirements
    for estimating Pearson, Kendall and Spearman correlations", Psychometrika 65, 2000) is too narrow for many pairs of
    nearly perfect order. There r is taken half a step below 1, a step being the exchange of two neighbors.

    Args:
        x: one number per pair, (n,).
        y: (n,).
        rng: where the resampling comes from; None: a fixed seed.
        level: share of repetitions of the experiment whose interval should hold the true correlation.
        resamples: number of bootstrap samples.

    Raises:
        UserError: fewer than four pairs, values that are not finite, or all values of one variable equal.

    >>> print(rank_correlation([1, 2, 3, 4, 5, 6], [2, 4, 5, 9, 11, 30]))
    1.00 [0.63, 1.00]
    """
    first, second = (torch.as_tensor(values).detach().double().cpu() for values in (x, y))
    count = first.numel()
    if first.shape != second.shape or first.ndim != 1 or count < LEAST:
        raise UserError(
            f"a rank correlation got {tuple(first.shape)} and {tuple(second.shape)} values; "
            f"expected the same number of both, at least {LEAST}"
        )
    if not bool(first.isfinite().all() and second.isfinite().all()):
        raise UserError("a rank correlation got values that are NaN or infinite; leave their pairs out")
    value = float(spearman(first, second))
    if math.isnan(value):
        raise UserError("a rank correlation got values that are all equal: they have no order")
    rng = torch.Generator().manual_seed(0) if rng is None else rng
    drawn = torch.randint(count, (resamples, count), generator=rng)
    found = spearman(first[drawn], second[drawn])
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = found[found.isfinite()].quantile(tails).tolist()
    below, above = _fisher(value, count, level)
    return Interval(value, min(low, below), max(high, above), level)


def _fisher(value: float, count: int, level: float) -> tuple[float, float]:
    most = 1 - 6 / (count * (count * count - 1))
    inner = max(-most, min(most, value))
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt((1 + inner * inner / 2) / (count - 3))
    low, high = math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half)
    return min(low, value), max(high, value)
