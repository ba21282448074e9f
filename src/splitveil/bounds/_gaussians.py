"""Mixtures of Gaussians as densities of a wire: fitted to features, scored on wires."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from sklearn.covariance import ledoit_wolf_shrinkage
from torch import Tensor

from ..defenses._by_class import by_class

ELEMENTS_AT_ONCE = 2**24
"""Bounds the memory in which wires are compared with all components, to some 400 MB."""
FULL_UP_TO = 4096
"""Dimensions up to which covariances are full matrices: their factors take seconds there, and minutes beyond."""


@dataclass(frozen=True)
class Mixture:
    """q(z) = Σ_j w_j N(z; m_j, C_j), with C_j a full matrix or a diagonal.

    Attributes:
        weights: (J,), positive, with sum 1.
        means: (J, D).
        factors: Cholesky factors (J, D, D) of the covariances, or standard deviations (J, D) where these are diagonal.
    """

    weights: Tensor
    means: Tensor
    factors: Tensor

    def log_density(self, z: Tensor) -> Tensor:
        """Return log q of each row of z (N, D), (N,), in nats."""
        at_once = max(1, ELEMENTS_AT_ONCE // self.means.numel())
        return torch.cat([self._log_density(part) for part in z.split(at_once)])

    def _log_density(self, z: Tensor) -> Tensor:
        centered = z - self.means[:, None]  # (J, N, D)
        if self.factors.ndim == 2:
            scaled, scales = centered / self.factors[:, None], self.factors
        else:
            scaled = torch.linalg.solve_triangular(self.factors, centered.mT, upper=False).mT
            scales = self.factors.diagonal(dim1=1, dim2=2)
        logs = -0.5 * scaled.square().sum(2) - scales.log().sum(1)[:, None] - 0.5 * z.shape[1] * math.log(2 * math.pi)
        return (logs + self.weights.log()[:, None]).logsumexp(0)


def full(z: Tensor, noise: Tensor, index: Tensor, count: int, pull: float) -> Mixture:
    """Return the mixture with one full covariance for each group of features.

    C_j = ((n_j − 1) S_j + pull · S)/(n_j − 1 + pull) + diag(noise), where S_j is the covariance within group j and S
    that of all groups pooled, itself drawn to a multiple of the identity (Ledoit and Wolf, "A well-conditioned
    estimator for large-dimensional covariance matrices", J. Multivariate Analysis 2004). Both turn with z.

    Args:
        z: (N, D) means of the wires.
        noise: (D,) their mean variance.
        index: (N,) group of each, 0 to ``count`` − 1; none is empty.
        count: number of groups.
        pull: number of samples that the pooled covariance counts for.
    """
    sizes = torch.bincount(index, minlength=count).to(z)
    means = torch.zeros(count, z.shape[1], dtype=z.dtype, device=z.device).index_add(0, index, z) / sizes[:, None]
    centered = z - means[index]
    shrinkage = ledoit_wolf_shrinkage(centered.cpu().numpy(), assume_centered=True)
    pooled = centered.T @ centered / max(1, len(z) - count)
    target = pooled.diagonal().mean() * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    pooled = (1 - shrinkage) * pooled + shrinkage * target
    covariances = pooled[None]
    if count > 1:
        grouped, valid = by_class(z, index, count)
        grouped = (grouped - means[:, None]) * valid[..., None]
        freedom = (sizes - 1)[:, None, None]
        covariances = (torch.bmm(grouped.mT, grouped) + pull * pooled) / (freedom + pull)
    return Mixture(sizes / sizes.sum(), means, torch.linalg.cholesky(covariances + noise.diag()))


def diagonal(z: Tensor, noise: Tensor, index: Tensor, count: int, pull: float) -> Mixture:
    """Return the mixture with one diagonal covariance for each group; arguments as of `full`."""
    sizes = torch.bincount(index, minlength=count).to(z)
    shape = (count, z.shape[1])
    means = torch.zeros(shape, dtype=z.dtype, device=z.device).index_add(0, index, z) / sizes[:, None]
    squares = torch.zeros(shape, dtype=z.dtype, device=z.device).index_add(0, index, (z - means[index]).square())
    pooled = squares.sum(0) / max(1, len(z) - count)
    variance = (squares + pull * pooled) / (sizes[:, None] - 1 + pull)
    return Mixture(sizes / sizes.sum(), means, (variance + noise).sqrt())
