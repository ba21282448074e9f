"""One Gaussian for wires of any width: principal directions with a variance each, and one variance for all others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _gaussians

ENOUGH = 2
"""Images for each value of the wire that determine a full covariance well enough."""
SHARES = (0.05, 0.15, 0.4)
"""Numbers of directions that are tried, as parts of the number of images."""


@dataclass(frozen=True)
class Principal:
    """N(z; mean, C) with C = Uᵀ diag(variances) U + rest (I − Uᵀ U), as of probabilistic principal components.

    (Tipping and Bishop, "Probabilistic principal component analysis", J. Royal Statistical Society B 1999.)

    Attributes:
        mean: (D,).
        directions: U, (k, D), orthonormal rows.
        variances: along them, (k,).
        rest: variance in every other direction.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    rest: float

    def log_density(self, z: Tensor) -> Tensor:
        """Return log q of each row of z (N, D), (N,), in nats."""
        centered = z - self.mean
        along = centered @ self.directions.T
        left = z.shape[1] - len(self.variances)
        beside = (centered.square().sum(1) - along.square().sum(1)).clamp(min=0)
        square = (along.square() / self.variances).sum(1) + beside / self.rest
        logs = float(self.variances.log().sum()) + left * math.log(self.rest) + z.shape[1] * math.log(2 * math.pi)
        return -0.5 * (square + logs)


def needed(images: int, dimension: int) -> bool:
    """Return whether a wire of so many values has a full covariance that so many images do not determine."""
    return dimension > min(_gaussians.FULL_UP_TO, images / ENOUGH)


def candidates(z: Tensor, others: Tensor, noise: float) -> list[Principal]:
    """Return Gaussians with several numbers of directions; turning z turns them.

    The directions are those of z, but the variances along them are taken from other images: in the directions in which
    z happens to vary most, its own variance is too large.

    Args:
        z: features (N, D).
        others: features of other images, (M, D).
        noise: mean variance of the wire's noise.
    """
    mean = z.mean(0)
    centered = z - mean
    # The smaller of the two matrices has the same directions.
    values, vectors = torch.linalg.eigh(centered @ centered.T)
    values, order = values.sort(descending=True)
    room = min(len(z) - 1, z.shape[1], int((values > 1e-9 * values[0].clamp(min=1e-30)).sum()))
    directions = (vectors[:, order[:room]].T @ centered) / values[:room].sqrt()[:, None]
    seen = others - mean
    along, total = (seen @ directions.T).square().mean(0), float(seen.square().sum(1).mean())
    found = []
    for count in sorted({min(room, max(1, round(share * len(z)))) for share in SHARES}):
        left = z.shape[1] - count
        rest = max(0.0, total - float(along[:count].sum())) / left if left else 0.0
        found.append(Principal(mean, directions[:count], along[:count] + noise, rest + noise))
    return found
