"""Means over images that are each compared with all others, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..statistics.intervals import Interval, binomial_ci, student_over_normal
from ._cross_entropy import SIGNIFICANCE
from ._fano import fano

NEAR = 0.01
"""Nats below ln K from which on a mean of `terms` is at its cap: it can hardly rise, however much leaks."""
AT_CAP = "It is at this cap: far more may leak than it says."


def terms(scores: Tensor, own: Tensor) -> Tensor:
    """Return s_ii − ln (1/K) Σ_j exp s_ij of some images, none of which exceeds ln K.

    Args:
        scores: of some images (rows) with all, (B, K).
        own: number of each row's image, (B,).

    >>> terms(torch.zeros(2, 3), torch.arange(2)).tolist()  # scores that know nothing
    [0.0, 0.0]
    """
    return scores.gather(1, own[:, None]).squeeze(1) - scores.logsumexp(1) + math.log(scores.shape[1])


def jackknifed(parts: Iterable[Tensor]) -> Interval:
    """Return the mean of `terms` over all images, with a 95 % interval by the jackknife.

    Each image is left out once, also from the sums of the others. Both ends are kept between 0, as no leakage is below,
    and ln K.

    Where each image is told from all others (its own softmax is above a half), the terms hardly differ and the
    jackknife sees no error. But K of K images say only that p of all images are, p the lower end of Wilson's interval,
    at which the leakage may be as low as Fano's inequality says: the lower end is not above that.

    Args:
        parts: scores (B, K) of the first B images, of the next, and so on.
    """
    values, changes, start = [], [], 0
    for scores in parts:
        scores = scores.double()
        own = start + torch.arange(len(scores), device=scores.device)
        values.append(terms(scores, own))
        # What the logarithm of each sum loses where an image is left out.
        rest = torch.log1p(-scores.softmax(1).clamp(max=1 - 1e-12)).scatter(1, own[:, None], 0.0)
        changes.append(rest.sum(0))
        start += len(scores)
    found = torch.cat(values)
    left_out = (found.sum() - found - torch.stack(changes).sum(0)) / (start - 1)
    wide = SIGNIFICANCE * student_over_normal(start)
    error = wide * float(((start - 1) / start * (left_out - left_out.mean()).square().sum()).sqrt())
    mean = float(found.mean())
    mean, low, high = (min(max(value, 0.0), math.log(start)) for value in (mean, mean - error, mean + error))
    if float(found.min()) > math.log(start) - math.log(2):
        low = min(low, fano(binomial_ci(start, start).lo, start))
    return Interval(mean, low, high)


def at_cap(value: float, count: int) -> bool:
    """Return whether a mean of `terms` over so many images is at its cap.

    Args:
        value: the mean.
        count: number K of images.

    >>> at_cap(4.6, 100), at_cap(4.5, 100)
    (True, False)
    """
    return value > math.log(count) - NEAR
