"""Mixtures of Gaussians as densities of a wire: fitted to features, scored on wires."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
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


@dataclass(frozen=True)
class Groups:
    """Features in groups, each of which becomes one Gaussian.

    Attributes:
        z: (N, D) features, the means of the wires.
        index: (N,) group of each, 0 to ``count`` − 1; none is empty.
        count: number J of groups.
    """

    z: Tensor
    index: Tensor
    count: int

    @cached_property
    def sizes(self) -> Tensor:
        """Return the number of features in each group, (J,)."""
        return torch.bincount(self.index, minlength=self.count).to(self.z)

    @property
    def weights(self) -> Tensor:
        """Return the share of each group, (J,)."""
        return self.sizes / len(self.z)

    @cached_property
    def means(self) -> Tensor:
        """Return the mean of each group, (J, D)."""
        return self._sums(self.z) / self.sizes[:, None]

    def covariances(self, pull: float) -> Tensor:
        """Return the covariance of each group, (J, D, D), which is the caller's to change.

        C_j = ((n_j − 1) S_j + pull · S)/(n_j − 1 + pull), where S_j is the covariance within group j and S that of all
        groups pooled, itself drawn to a multiple of the identity (Ledoit and Wolf, "A well-conditioned estimator for
        large-dimensional covariance matrices", J. Multivariate Analysis 2004). Both turn with z.

        Args:
            pull: number of samples that the pooled covariance counts for.
        """
        if self.count == 1:
            return self._pooled[None].clone()
        freedom = (self.sizes - 1)[:, None, None]
        return self._scatter.add(pull * self._pooled).div_(freedom + pull)

    def variances(self, pull: float) -> Tensor:
        """Return the variance of each value in each group, (J, D), drawn to that of all groups pooled.

        Args:
            pull: as of `covariances`.
        """
        squares = self._sums((self.z - self.means[self.index]).square())
        pooled = squares.sum(0) / max(1, len(self.z) - self.count)
        return (squares + pull * pooled) / (self.sizes[:, None] - 1 + pull)

    def _sums(self, values: Tensor) -> Tensor:
        shape = self.count, self.z.shape[1]
        return torch.zeros(shape, dtype=values.dtype, device=values.device).index_add(0, self.index, values)

    @cached_property
    def _pooled(self) -> Tensor:
        from sklearn.covariance import ledoit_wolf_shrinkage

        centered = self.z - self.means[self.index]
        shrinkage = ledoit_wolf_shrinkage(centered.cpu().numpy(), assume_centered=True)
        pooled = centered.T @ centered / max(1, len(centered) - self.count)
        target = pooled.diagonal().mean() * torch.eye(len(pooled), dtype=pooled.dtype, device=pooled.device)
        return (1 - shrinkage) * pooled + shrinkage * target

    @cached_property
    def _scatter(self) -> Tensor:
        """Return (n_j − 1) S_j, (J, D, D)."""
        grouped, valid = by_class(self.z, self.index, self.count)
        grouped = (grouped - self.means[:, None]) * valid[..., None]
        return torch.bmm(grouped.mT, grouped)


def full(groups: Groups, noise: Tensor, pull: float) -> Mixture:
    """Return the mixture with one full covariance for each group.

    Args:
        groups: of features.
        noise: (D,) mean variance of the wire's noise, which is added.
        pull: number of samples that the pooled covariance counts for, see `Groups.covariances`.
    """
    found = groups.covariances(pull)
    found.diagonal(dim1=1, dim2=2).add_(noise)  # in place: of wide wires these are gigabytes
    return Mixture(groups.weights, groups.means, torch.linalg.cholesky(found))


def diagonal(groups: Groups, noise: Tensor, pull: float) -> Mixture:
    """Return the mixture with one diagonal covariance for each group.

    Args:
        groups: of features.
        noise: (D,) mean variance of the wire's noise, which is added.
        pull: number of samples that the pooled variances count for.
    """
    return Mixture(groups.weights, groups.means, (groups.variances(pull) + noise).sqrt())
