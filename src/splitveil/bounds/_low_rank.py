"""Mixtures of Gaussians whose covariances are a diagonal and a few directions: between `diagonal` and `full`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ._gaussians import ELEMENTS_AT_ONCE, Groups

PART = 8
"""One direction for so many values of the wire."""
ROUNDS = 4
"""Subspace iterations from the directions of all groups together to those of each."""


@dataclass(frozen=True)
class LowRank:
    """q(z) = Σ_j w_j N(z; m_j, L_j L_jᵀ + diag(v_j)).

    Attributes:
        weights: (J,), positive, with sum 1.
        means: (J, D).
        loadings: L, (J, D, r).
        variances: v, (J, D), positive.
    """

    weights: Tensor
    means: Tensor
    loadings: Tensor
    variances: Tensor

    def log_density(self, z: Tensor) -> Tensor:
        """Return log q of each row of z (N, D), (N,), in nats.

        By Woodbury's identity and the determinant lemma: with M = I + Lᵀ diag(v)⁻¹ L nothing is larger than D × r.
        """
        scaled = self.loadings / self.variances[..., None]
        inner = self.loadings.mT @ scaled
        inner.diagonal(dim1=1, dim2=2).add_(1)
        factors = torch.linalg.cholesky(inner)
        logs = self.variances.log().sum(1) + 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
        offsets = self.weights.log() - 0.5 * (logs + z.shape[1] * math.log(2 * math.pi))
        whitening = torch.linalg.solve_triangular(factors, scaled.mT, upper=False)  # (J, r, D)
        at_once = max(1, ELEMENTS_AT_ONCE // self.means.numel())
        return torch.cat([self._log_density(part, whitening, offsets) for part in z.split(at_once)])

    def _log_density(self, z: Tensor, whitening: Tensor, offsets: Tensor) -> Tensor:
        centered = z - self.means[:, None]  # (J, N, D)
        square = (centered.square() / self.variances[:, None]).sum(2) - (centered @ whitening.mT).square().sum(2)
        return (offsets[:, None] - 0.5 * square).logsumexp(0)


def low_rank(groups: Groups, noise: Tensor, pull: float) -> LowRank:
    """Return the mixture that keeps a few directions of the covariances of `full`, and all of their diagonals.

    Of the correlations R_j = S_j^-½ C_j S_j^-½, S_j the diagonal of C_j, the r greatest eigenvalues λ and their
    directions u are kept as far as they exceed the mean θ of the others: L = S_j^½ u (λ − θ)^½ (the principal factors
    of factor analysis). The rank r is the same for all groups.

    Args:
        groups: of features.
        noise: (D,) mean variance of the wire's noise, which is added.
        pull: number of samples that the pooled covariance counts for, see `Groups.covariances`.
    """
    found = groups.covariances(pull)
    shown, width = found.diagonal(dim1=1, dim2=2).clone(), groups.z.shape[1]
    rank, scale = max(1, width // PART), shown.sqrt().clamp(min=1e-12)
    correlations = found.div_(scale[:, :, None]).div_(scale[:, None])  # in place: of wide wires these are gigabytes
    directions = torch.linalg.eigh(correlations.mean(0))[1][:, -rank:].expand(len(found), -1, -1)
    for _ in range(ROUNDS if len(found) > 1 else 0):
        directions = torch.linalg.qr(correlations @ directions)[0]
    values, turned = torch.linalg.eigh(directions.mT @ correlations @ directions)
    others = (width - values.sum(1, keepdim=True)).clamp(min=0) / max(1, width - rank)
    lengths = (values - others).clamp(min=0).sqrt()
    loadings = scale[..., None] * (directions @ turned) * lengths[:, None]
    variances = (shown - loadings.square().sum(2)).clamp(min=0) + noise
    return LowRank(groups.weights, groups.means, loadings, variances)
