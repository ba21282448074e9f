"""Noise that is water-filled against the task's Fisher information: the closed form, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-10
"""Eigenvalues below this part of the largest are taken for 0: such a direction carries nothing."""
LEAST = 1e-3
"""Signal-to-noise ratio below which a direction is not sent: it carries less than 0.0005 nats."""
MOST = 1e6
"""Most noise in a direction, beside a signal of variance 1, of which nothing is left then. What the task does not need
at all could have any, and beside such noise the rest of the matrix would drown in rounding."""


def filled(explained: Tensor, fisher: Tensor, mu: float) -> Tensor:
    """Return the n_i ≥ 0 that minimize Σ g_i/(1 + n_i) + μ Σ f_i n_i, beside signals of variance 1.

    n_i = max(0, √(g_i/(μ f_i)) − 1), at most `MOST`. The first sum is the part of the images' variance that a linear
    attacker explains, the second twice the task's loss in nats, to second order.

    Args:
        explained: g_i, (D,); below 0, where chance has been subtracted, it counts as 0.
        fisher: f_i > 0, in nats, (D,).
        mu: μ > 0, the price of a nat.

    >>> filled(torch.tensor([2.25, 1.0]), torch.tensor([1.0, 16.0]), 0.0625)
    tensor([5., 0.])
    """
    return ((explained.clamp_min(0) / (mu * fisher)).sqrt() - 1).clamp(0, MOST)


def floored(fisher: Tensor) -> Tensor:
    """Return Fisher information f_i, (D,), none of which is 0: at least `FLOOR` of the largest, if there is any."""
    return fisher.clamp_min(max(FLOOR * float(fisher.max()), torch.finfo(fisher.dtype).tiny))


def without_chance(explained: Tensor, count: float) -> Tensor:
    """Return the explained parts of a variance without what chance correlations of so many images add, 1/N each.

    A part of nearly 0 may come out below it, so that the sum over many directions is right on average.

    Args:
        explained: ĝ_i, (D,), from N images: of expectation g_i + (1 − g_i)/N.
        count: N.

    >>> without_chance(torch.tensor([0.505, 0.0001]), 100)
    tensor([ 0.5000, -0.0100])
    """
    return (explained - 1 / count) / (1 - 1 / count)


@dataclass(frozen=True)
class Statistics:
    """What the closed form looks at; D values of a feature, P values of an image (or sketches of them).

    Attributes:
        mean: mean of the features, (D,).
        covariance: C, covariance of the features, (D, D).
        fisher: F, Fisher information of the tail's answer about the feature, mean over images, in nats, (D, D).
        pixels: covariance of the images with the features, (P, D).
        variance: total variance of the images.
        count: number of images; infinite where the moments are exact.
    """

    mean: Tensor
    covariance: Tensor
    fisher: Tensor
    pixels: Tensor
    variance: float
    count: float = math.inf


@dataclass(frozen=True)
class Directions:
    """The directions of a feature by which the task sorts: uncorrelated, of variance 1.

    Attributes:
        shapes: C^½ U, the change of the feature along each direction, as columns (D, D).
        fisher: f_i, the task's Fisher information about each direction, in nats, (D,).
        explained: g_i, the part of the images' variance that each direction explains, (D,), see `without_chance`.
    """

    shapes: Tensor
    fisher: Tensor
    explained: Tensor

    @classmethod
    def of(cls, statistics: Statistics) -> Directions:
        """Return the eigenvectors U of C^½ F C^½, in the coordinates that whiten the feature.

        Args:
            statistics: of the features, the tail and the images.
        """
        root, inverse = roots(statistics.covariance)
        f, u = torch.linalg.eigh(root @ statistics.fisher @ root)
        g = (statistics.pixels @ inverse @ u).square().sum(0) / statistics.variance
        return cls(root @ u, floored(f), without_chance(g, statistics.count))

    def noise(self, mu: float) -> Tensor:
        """Return the n_i of `filled`, (D,), at the price μ of a nat."""
        return filled(self.explained, self.fisher, mu)

    def loss(self, mu: float) -> float:
        """Return the task's loss by the noise of μ, ½ Σ f_i n_i: in nats, to second order."""
        return float((self.fisher * self.noise(mu)).sum()) / 2


def roots(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Return C^½ and its inverse; directions without variance are 0 in both.

    Args:
        covariance: C, (D, D).
    """
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > FLOOR * values[-1]
    root = torch.where(kept, values, 0.0).sqrt()
    return vectors * root @ vectors.T, vectors * torch.where(kept, 1 / root, 0.0) @ vectors.T


def wire_matrix(covariance: Tensor, directions: Directions, mu: float, sigma: float, least: float) -> Tensor:
    """Return A (k, D) with which the wire A(z − mean) + N(0, I) carries z in water-filled noise.

    In the feature's own coordinates the noise has the covariance N = σ² I + C^½ U diag(n) Uᵀ C^½. With σ that of the
    training no direction is sent with less noise than the tail has learned to take. The rows of A are the generalized
    eigenvectors of (C, N), so that A N Aᵀ = I and A C Aᵀ is diagonal: its entries are the signal-to-noise ratios,
    sorted from the largest.

    Args:
        covariance: C of the features, (D, D).
        directions: of the same features.
        mu: price of a nat, as `Directions.noise` takes it.
        sigma: standard deviation σ > 0 of noise in every direction, in units of the feature.
        least: signal-to-noise ratio below which a direction is not sent; the best one always is.
    """
    noise = (directions.shapes * directions.noise(mu)) @ directions.shapes.T
    lower, failed = torch.linalg.cholesky_ex(noise + sigma**2 * torch.eye(len(noise), dtype=noise.dtype))
    if bool(failed):  # beside the strongest noise σ² is lost in rounding, which leaves some directions less than none
        values, vectors = torch.linalg.eigh(noise)
        deviation = (values.clamp_min(0) + sigma**2).sqrt()
        lower = torch.linalg.qr((vectors * deviation).T)[1].T
    whitened = torch.linalg.solve_triangular(lower, covariance, upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(lower, whitened.T, upper=False))
    rows = torch.linalg.solve_triangular(lower.T, vectors, upper=True).T.flip(0)
    return rows[: max(1, int((values >= least).sum()))]
