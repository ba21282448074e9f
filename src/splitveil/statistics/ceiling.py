"""Where a defense lies between the undefended wire and the ceiling: a wire that tells the class and no more.

The ceiling is the error of answering the mean image of the true class (`evaluation.floors.class_mean_error`).
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UserError
from .intervals import Interval, expansion
from .noise_curve import RESAMPLES, resampled


def share_of_ceiling(error: float, undefended: float | None, ceiling: float | None) -> float | None:
    """Return which share of the way from the undefended wire to the ceiling an attacker's error lies at.

        share = (error − undefended) / (ceiling − undefended)

    0 is the error on an undefended wire, 1 that on a wire that tells the class and no more. It is below 0 where the
    attacker does better than on the undefended wire, and above 1 where the attack fails to learn even the class.

    Args:
        error: the best attacker's MSE on the defended wire.
        undefended: the best attacker's MSE on the undefended wire; None: not known.
        ceiling: MSE of the mean image of the true class; None: not known.

    Returns:
        None where one of them is not known, or where the ceiling is not above the undefended error.

    >>> share_of_ceiling(0.25, 0.125, 0.625), share_of_ceiling(0.25, 0.5, 0.5)
    (0.25, None)
    """
    if undefended is None or ceiling is None or not ceiling > undefended:
        return None
    return (error - undefended) / (ceiling - undefended)


def share_interval(error: Any, undefended: Any, ceiling: Any) -> Interval | None:
    """Return `share_of_ceiling` of the means over the images, with its 95 % interval.

    The interval is the percentile bootstrap's of a ratio of means (Efron and Tibshirani 1993, ch. 13). It draws images,
    the same for the three errors, so that what images have in common cancels.

    Args:
        error: the best attacker's MSE on the defended wire for each image, (N,).
        undefended: the same on the undefended wire, (N,).
        ceiling: MSE of the mean image of the true class, (N,).

    Returns:
        None where ceiling and undefended wire are not apart: in one resample or more the ceiling is not above.

    Raises:
        UserError: different numbers of images, fewer than two, or a value that is NaN or infinite.

    >>> share_interval([0.1, 0.4], [0.0, 0.3], [0.4, 0.7])
    Interval(mean=0.25, lo=0.25, hi=0.25, level=0.95)
    """
    rows = (torch.as_tensor(values).detach().double().cpu()[None] for values in (error, undefended, ceiling))
    return share_intervals(*rows)[0]


def share_intervals(errors: Any, undefended: Any, ceilings: Any) -> list[Interval | None]:
    """Return `share_interval` of each row, with the same resampled images for all rows.

    Args:
        errors: (rows, N).
        undefended: (rows, N).
        ceilings: (rows, N).

    Raises:
        UserError: as `share_interval`.
    """
    parts = [torch.as_tensor(values).double() for values in (errors, undefended, ceilings)]
    shapes = [tuple(part.shape) for part in parts]
    if len(set(shapes)) != 1 or parts[0].dim() != 2 or parts[0].shape[1] < 2:
        raise UserError(f"shares of the ceiling got errors of shapes {shapes}; expected the same images, two or more")
    if not all(bool(part.isfinite().all()) for part in parts):
        raise UserError("shares of the ceiling got errors that are NaN or infinite; run the attack again")
    together = torch.cat([parts[0] - parts[1], parts[2] - parts[1]])
    gained, room = resampled(together, RESAMPLES, torch.Generator().manual_seed(0)).chunk(2, 1)
    whole, most = together.mean(1).chunk(2)
    apart = (room > 0).all(0) & (most > 0)
    ends = (gained / torch.where(apart, room, 1)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    means = whole / torch.where(apart, most, 1)
    ends = means + expansion(shapes[0][1]) * (ends - means)  # of few images, as of `bootstrap_ci`
    rows = zip(apart.tolist(), means.tolist(), *ends.tolist(), strict=True)
    return [Interval(mean, low, high) if there else None for there, mean, low, high in rows]
