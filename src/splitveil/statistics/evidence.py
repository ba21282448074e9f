"""The evidence for a difference: over trainings and their images, and over the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import UserError
from .intervals import Interval, expansion

LEAST = 3
"""Least pairs of trainings for which a difference is put down to what was changed; fewer speak of themselves alone."""
LEVEL = 0.05
MARGIN = 1.0
"""Loss of accuracy, in points, that must be excluded before an accuracy is called kept."""


def checked_margin(points: float) -> float:
    """Return a loss of accuracy that is to be excluded, in points.

    Args:
        points: above 0 and below 100.

    Raises:
        UserError: it is none.
    """
    if isinstance(points, bool) or not isinstance(points, int | float) or not 0 < points < 100:
        raise UserError(f"margin is {points}; expected points of accuracy, above 0 and below 100, such as 1")
    return float(points)


def points_of(margin: float) -> str:
    """Return a margin in words.

    >>> points_of(1.0), points_of(0.5)
    ('1 point', '0.5 points')
    """
    return f"{margin:g} point{'' if margin == 1 else 's'}"


def over_seeds(values: Sequence[float]) -> Interval:
    """Return the mean of independent values with Student's 95 % interval, mean ± t·s/√n.

    Args:
        values: one for each seed, at least two.

    >>> f"{over_seeds([1.0, 2.0, 3.0]):.2f}"
    '2.00 [-0.48, 4.48]'
    """
    return student(float(np.mean(values)), float(np.var(values, ddof=1)) / len(values), len(values))


def combined(
    parts: Sequence[Interval], least: float = -math.inf, most: float = math.inf, *, shared: bool = False
) -> Interval:
    """Return Student's interval over the seeds, cut to [``least``, ``most``]; of one seed its own interval.

    Seeds that happen to agree leave Student's interval without width. It is never taken narrower than that of the
    images would be if every seed had images of its own: mean half width / √seeds.

    Seeds that share their images do not show by their differences what the choice of images adds to all of them. The
    half width is then √(s² + h²), with that of Student's interval s and the mean half width h of the seeds' own.

    Args:
        parts: interval of each seed.
        least: lowest value that is possible.
        most: highest value that is possible.
        shared: all seeds have the same images.

    >>> f"{combined([Interval(0.5, 0.4, 0.6), Interval(0.5, 0.4, 0.6)]):.3f}"
    '0.500 [0.429, 0.571]'
    >>> f"{combined([Interval(0.95, 0.94, 0.96), Interval(0.99, 0.98, 0.995)], 0, 1):.2f}"
    '0.97 [0.72, 1.00]'
    """
    if len(parts) == 1:
        return parts[0]
    found, half = over_seeds([part.mean for part in parts]), np.array([[p.mean - p.lo, p.hi - p.mean] for p in parts])
    student_half, own = found.hi - found.mean, half.mean(0)
    low, high = np.hypot(student_half, own) if shared else np.maximum(student_half, own / math.sqrt(len(parts)))
    return Interval(found.mean, max(least, found.mean - float(low)), min(most, found.mean + float(high)))


def hierarchical(changes: Sequence[np.ndarray | Interval], shared: bool = False, *, hits: bool = False) -> Interval:
    """Return the mean change over several pairs of trainings, with the interval of the hierarchical bootstrap.

    The bootstrap draws pairs, then the images within each (Davison and Hinkley 1997, section 3.8). The variance of its
    mean is known, so that nothing need be drawn: of n pairs with means d_i and image variances v_i over m_i images,

        Σ (d_i − d̄)² / (n (n − 1)) + Σ v_i / (n² m_i),

    with n − 1 for the bootstrap's n. As percentiles of few pairs are far too narrow (of three pairs one interval in
    four misses), the interval is mean ± t·√variance with Student's t of n − 1 degrees of freedom. The images' part is
    also in the d_i: the interval is Student's over the pairs, and wider where images vary more than trainings.

    Args:
        changes: of each pair B − A per image (N,), or, where images could not be paired, its mean and 95 % interval.
        shared: all pairs saw the same images, which are then drawn once for all: averaging over pairs does not
            average their choice out. Student's t is over the pairs, which do not show it; of few images it is widened
            as of `intervals.expansion`.
        hits: as of `image_variance`. The interval may end beyond −1 or 1: a p value is made of the whole of it
            (`p_value`), and only what is shown is cut to what is possible.

    >>> hierarchical([np.full(9, 1.0), np.full(9, 2.0), np.full(9, 3.0)]) == over_seeds([1.0, 2.0, 3.0])
    True
    """
    count = len(changes)
    means = [float(np.mean(change.mean if isinstance(change, Interval) else change)) for change in changes]
    variance = float(np.var(means, ddof=1)) / count + image_variance(changes, shared, hits=hits)
    return student(float(np.mean(means)), variance, count)


def image_variance(changes: Sequence[np.ndarray | Interval], shared: bool = False, *, hits: bool = False) -> float:
    """Return the variance that the choice of images gives the mean over ``changes``; arguments as of `hierarchical`.

    Args:
        changes: of each pair B − A per image (N,), or its mean and 95 % interval.
        shared: all pairs saw the same images.
        hits: the changes are of hits, −1, 0 or 1 per image. Where no image tells B from A, or only one or two, their
            spread says next to nothing: a standard error is then never below z/(m + z²) of m images, at which Wilson's
            interval for no change at all ends after z of them.
    """
    arrays = [change for change in changes if not isinstance(change, Interval)]
    if shared and len(arrays) == len(changes):
        return _variance(np.mean(arrays, axis=0), hits, expansion(len(arrays[0])))
    single = [
        ((change.hi - change.lo) / (2 * quantile(1))) ** 2 if isinstance(change, Interval) else _variance(change, hits)
        for change in changes
    ]
    return sum(single) / len(changes) ** 2


def _variance(change: np.ndarray, hits: bool, factor: float = 1.0) -> float:
    """Return the variance of the mean of a change per image, its root times ``factor``."""
    least = quantile(1) / (len(change) + quantile(1) ** 2) if hits else 0.0
    return max(factor**2 * float(change.var()) / len(change), least**2)


def student(mean: float, variance: float, count: int) -> Interval:
    """Return mean ± quantile·√variance; the quantile as in `quantile`.

    Args:
        mean: middle of the interval.
        variance: variance of the mean.
        count: pairs of trainings.
    """
    half = quantile(count) * math.sqrt(variance)
    return Interval(mean, mean - half, mean + half)


def quantile(count: int) -> float:
    """Return the half width of a 95 % interval in standard errors: Student's over ``count`` pairs, the normal of one.

    Args:
        count: pairs of trainings.

    >>> [round(quantile(count), 2) for count in (1, 2, 3, 5)]
    [1.96, 12.71, 4.3, 2.78]
    """
    from scipy.special import ndtri, stdtrit

    return float(ndtri(0.975) if count == 1 else stdtrit(count - 1, 0.975))


def p_value(difference: Interval, count: int = 1) -> float:
    """Return the two-sided p value of an interval over ``count`` pairs: below 0.05 where the interval excludes zero.

    The distance from zero to the nearer end stands for `quantile` standard errors. So the ends must not be cut to what
    is possible: a cut end is nearer, and p would be too small.

    Args:
        difference: mean and 95 % interval.
        count: pairs of trainings that it is over.

    >>> round(p_value(Interval(1.0, 0.0, 2.0)), 3), round(p_value(over_seeds([1.0, 2.0, 3.0]), 3), 4)
    (0.05, 0.0742)
    """
    from scipy.special import ndtr, stdtr

    half = difference.mean - difference.lo if difference.mean > 0 else difference.hi - difference.mean
    if difference.mean == 0:
        return 1.0
    if half <= 0:
        return 0.0
    score = -quantile(count) * abs(difference.mean) / half
    return 2 * float(ndtr(score) if count == 1 else stdtr(count - 1, score))


def holm(values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm 1979): all those below 0.05 are shown together at that level.

    Args:
        values: uncorrected p values.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    found, highest = [1.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        found[place] = highest
    return found
