"""How many candidates are nearer to a wire than the right one, or likelier, and how many are as near or likely."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from .base import Conditional

AT_ONCE = 1000
"""Wires that are compared with all candidates at once, and candidates too where each has its own variance."""
EXACT, COARSE = 1e-9, 1e-6
"""Relative differences that rounding may make, in double and in single precision."""
SUMS = 1e-12
"""The same of a sum of squares in double precision, in units of the terms that it is made of."""


def closer(wires: Tensor, candidates: Tensor) -> Tensor:
    """Return for each wire how many other candidates are nearer to it than its own, and how many as near, (2, M).

    Args:
        wires: (M, D).
        candidates: means of the wires, (M, D).
    """
    # Distances are made of products, which lose their digits where all wires are far from zero.
    middle = candidates.mean(0)
    return counted(torch.cdist(part, candidates - middle) for part in (wires - middle).split(AT_ONCE))


def counted(parts: Iterable[Tensor]) -> Tensor:
    """Return for each image how many others have a lower value than its own, and how many the same, (2, M).

    Args:
        parts: values (B, M) of the first B images with all M, of the next, and so on, such as distances.
    """
    found, start = [], 0
    for distance in parts:
        own = distance.gather(1, start + torch.arange(len(distance), device=distance.device)[:, None])
        nearer, ties = _compared(distance, own)
        found.append(torch.stack([nearer, ties - 1]))
        start += len(distance)
    return torch.cat(found, 1)


def _compared(distance: Tensor, own: Tensor) -> Tensor:
    """Return in how many columns (B, K) is less than ``own`` (B, 1), and in how many as much but for rounding, (2, B).

    Equal candidates have distances that differ in the last digits, by where they stand in a product of matrices.
    """
    slack = (EXACT if distance.dtype == torch.float64 else COARSE) * own.abs()
    return torch.stack([(distance < own - slack).sum(1), ((distance - own).abs() <= slack).sum(1)])


def before(wires: Tensor, own: Tensor, others: Tensor) -> Tensor:
    """Return how many of other candidates are nearer to each wire than its own, and how many as near, (2, M).

    Args:
        wires: (M, D).
        own: mean of each wire, (M, D).
        others: means of other wires, (K, D).
    """
    found, middle = [], own.mean(0)  # as in `closer`
    for part, right in zip(wires.split(AT_ONCE), own.split(AT_ONCE), strict=True):
        limit = (part - right).norm(dim=1, keepdim=True)
        found.append(_compared(torch.cdist(part - middle, others - middle), limit))
    return torch.cat(found, 1)


def likelier(wires: Tensor, own: Conditional, others: Conditional) -> Tensor:
    """Return under how many other candidates each wire is likelier than under its own, and as likely, (2, M).

    Compared is log p(z_wire | x_j) = −½ Σ_d ((z_d − m_jd)²/v_jd + ln v_jd) + const, with each candidate's own variance.

    Args:
        wires: (M, D), in double precision.
        own: law of each wire, (M, D).
        others: laws of the candidates, (K, D). An image's own law among them counts as one that is as likely.
    """
    found, middle = [], own.mean.mean(0)  # as in `closer`
    for part, mean, variance in zip(*(value.split(AT_ONCE) for value in (wires, own.mean, own.variance)), strict=True):
        z = part - middle
        right = ((part - mean).square() / variance + variance.log()).sum(1, keepdim=True)
        terms = (z.square() + (mean - middle).square()) / variance + variance.log().abs()
        slack = SUMS * terms.sum(1, keepdim=True)
        counts = torch.zeros(2, len(part), dtype=torch.long, device=part.device)
        # Candidates are split too: the precision and the means of 10,000 large wires would take gigabytes.
        for center, spread in zip(others.mean.split(AT_ONCE), others.variance.split(AT_ONCE), strict=True):
            misfits = _misfits(z, center - middle, spread)
            counts += torch.stack([(misfits < right - slack).sum(1), ((misfits - right).abs() <= slack).sum(1)])
        found.append(counts)
    return torch.cat(found, 1)


def _misfits(z: Tensor, means: Tensor, variance: Tensor) -> Tensor:
    """Return Σ_d ((z_d − m_jd)²/v_jd + ln v_jd) of each z (B, D) behind each candidate, (B, K)."""
    precision = 1 / variance
    fixed = (means.square() * precision + variance.log()).sum(1)
    return z.square() @ precision.T - 2 * z @ (means * precision).T + fixed
