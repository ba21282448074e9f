"""Several looks at the wire of one image as one wire."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ._law import Law

FAINT = 1e-3
"""Least variance that counts where it is measured, in units of that of the Laplace noise: none has no logarithm."""
SIMULATED = 2**15
"""Number of simulated sets of looks from which the weights of ranked ones are computed."""


def combined(looks: Tensor, law: Law) -> Tensor:
    """Return one wire (B, ...) of several looks (k, B, ...) at the same images.

    The ``law`` is that of the looks, laid one after the other: (k · B, ...).

    >>> from ._law import Law
    >>> looks = torch.tensor([[[0.0, 4.0]], [[2.0, 2.0]]])
    >>> combined(looks, Law())
    tensor([[1., 3.]])
    >>> combined(looks, Law(visible=looks.flatten(0, 1) != 0))
    tensor([[2., 3.]])
    """
    if law.visible is not None:
        return _union(looks, law.visible.view_as(looks), law)
    weights = weights_of(law.share(looks), len(looks))
    if weights is None:
        return looks.mean(0)
    return torch.einsum("k...,k->...", looks.sort(0).values, weights.to(looks))


def _union(looks: Tensor, seen: Tensor, law: Law) -> Tensor:
    """Return what several looks (k, B, ...) show, bool ``seen``: of each entry the best weighted mean of these."""
    count, share = seen.sum(0), 0.0 if law.variance is None else law.share()
    if not share:
        return (looks * seen).sum(0) / count.clamp(min=1)
    ranked, found = torch.where(seen, looks, torch.inf).sort(0).values, torch.zeros_like(looks[0])
    for shown in range(1, len(looks) + 1):
        few, weights = ranked[:shown], weights_of(share, shown)
        one = few.mean(0) if weights is None else torch.einsum("k...,k->...", few, weights.to(few))
        found = torch.where(count == shown, one, found)
    return found


def weights_of(share: float, looks: int) -> Tensor | None:
    """Return the weight of each ranked look in one wire, (looks,); None: all the same.

    Args:
        share: of `share_of`.
        looks: their number.
    """
    return ranked_weights(looks, share) if share and looks > 2 else None


def share_of(law: Law, looks: Tensor | None = None) -> float:
    """Return the part of the noise's variance that is Laplace noise, rounded; 1 if the whole is unknown.

    Args:
        law: of a look.
        looks: at the same images, (k, ...), from which the variance of all noise is measured where the law does not
            tell it. Its geometric mean counts: a few images or entries with much noise (`vib`) say little of the rest.
    """
    if not law.laplace:
        return 0.0
    if law.variance is not None:
        return round(min(1.0, law.laplace / max(float(torch.as_tensor(law.variance).mean()), 1e-20)), 2)
    if looks is None or len(looks) < 2:
        return 1.0
    freedom = torch.tensor((len(looks) - 1) / 2, dtype=torch.float64)
    bias = torch.digamma(freedom) - freedom.log()  # of the logarithm of a variance from few looks at Gaussian noise
    logarithm = (looks.var(0).double() / law.laplace).clamp(min=FAINT).log().mean() - bias.to(looks.device)
    # What is measured differs between wires, which should seldom be weighed otherwise for it.
    return round(min(1.0, float((-logarithm).exp())), 1)


def averaged(law: Law, looks: int) -> Law:
    """Return the law of the one wire that `combined` makes of several looks, each of this law.

    Args:
        law: of one look.
        looks: their number, above 1.
    """
    if law.variance is None or law.looks == "union":  # how often an entry was visible differs between entries
        known, fewer = 0.0 if replace(law, visible=None).exact else None, (law.reduced, law.directions)
        silent = law.silent(law.visible)
        return replace(silent, variance=known, laplace=0.0, reduced=fewer[0], directions=fewer[1])
    share = law.share()
    weights = weights_of(share, looks)
    spread = None if weights is None else ranked_covariance(looks, share).mv(weights)
    factor = 1 / looks if spread is None or weights is None else float(spread.dot(weights))
    return type(law)(law.variance * factor, reduced=law.reduced, forgotten=law.forgotten)


@cache
def ranked_weights(looks: int, share: float) -> Tensor:
    """Return weights (looks,) of ranked looks whose sum is the unbiased linear estimate with the least variance.

    w = Σ⁻¹ 1 / (1ᵀ Σ⁻¹ 1), Σ the covariance of the ranked noise (Lloyd, "Least-squares estimation of location and scale
    parameters using order statistics", Biometrika 1952). Equal for Gaussian noise, all on the middle for many looks
    with Laplace noise: of variance 2 b², four looks leave 0.42 b² (their mean 0.50, their median 0.42, the best
    equivariant estimate 0.415), eight 0.181 (0.250, 0.187, 0.180). ``share`` is that of `Law.share`.

    >>> [round(float(weight), 1) for weight in ranked_weights(3, 1.0)]
    [0.1, 0.7, 0.1]
    """
    ones = torch.ones(looks, dtype=torch.float64)
    weights = torch.linalg.solve(ranked_covariance(looks, share), ones)
    weights = weights + weights.flip(0)  # the noise is symmetric, a simulation nearly so
    return weights / weights.sum()


@cache
def ranked_covariance(looks: int, share: float) -> Tensor:
    """Return the covariance of ranked noise of variance 1, (looks, looks), by simulation."""
    rng = torch.Generator().manual_seed(0)
    first, second = torch.empty(2, SIMULATED, looks).exponential_(generator=rng)
    noise = (share / 2) ** 0.5 * (first - second)
    noise += (1 - share) ** 0.5 * torch.randn(SIMULATED, looks, generator=rng)
    return torch.cov(noise.double().sort(1).values.T)
