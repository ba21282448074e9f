"""Gaussian noise in the directions of the feature that the task needs least."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import plugin
from ._correlated import Correlated
from ._waterfilling import LEAST, Directions, Statistics, wire_matrix

DUST = 1e-20
"""Part of the largest variance on the wire below which a value of the feature is shown as its mean."""


@plugin("waterfill")
class Waterfill(Correlated):
    """Noise that is water-filled against the task's Fisher information, on a trained network.

    The device sends k ≤ D numbers y = A(z − m) + N(0, I); what reaches the tail is their best linear estimate of the
    feature, m + B y, in the shape of z. A has the least Σ g_i/(1 + n_i) + μ Σ f_i n_i, where in the i-th direction
    g_i is the part of the images' variance that a linear attacker explains, f_i the Fisher information of the tail and
    n_i the noise: much noise goes where the attacker looks and the task does not. `splitveil harden` finds μ for a
    given loss of accuracy, computes A and trains the tail anew; until then the wire is z. The encoder stays as it is.

    Args:
        mu: price μ of a nat of the task; the smaller, the more noise.
        sigma: standard deviation σ of the noise that every direction has at least, in units of the feature.

    >>> defense = Waterfill(0.1)
    >>> z = torch.rand(2, 8, 4, 4)
    >>> torch.equal(defense.on_wire(z, torch.Generator()), z)
    True
    """

    late_buffers = ("center", "matrix", "estimate")
    center: Tensor | None
    """m, mean of the features, (D,)."""
    matrix: Tensor | None
    """A, (k, D)."""
    estimate: Tensor | None
    """B, (D, k)."""

    def _solve(self, statistics: Statistics, directions: Directions) -> None:
        """Compute the matrices in float64."""
        matrix = wire_matrix(statistics.covariance, directions, self.mu, self.sigma, LEAST)
        self.center, self.matrix = statistics.mean.float(), matrix.float()
        self.estimate = estimate_matrix(statistics.covariance, matrix).float()

    def _sent(self, z: Tensor) -> Tensor:
        return (z.flatten(1).float() - self._have("center")) @ self._have("matrix").T

    def _shown(self, sent: Tensor) -> Tensor:
        return self._have("center") + sent @ self._have("estimate").T

    def _sent_of(self, wire: Tensor) -> Tensor:
        # wire − m = B y, and A B is diagonal but for rounding: solved, it is far cheaper than a pseudo-inverse of B.
        matrix, estimate = self._have("matrix").double(), self._have("estimate").double()
        projected = (wire.flatten(1).double() - self._have("center").double()) @ matrix.T
        return torch.linalg.solve(matrix @ estimate, projected.T).T.float()

    def _variance(self, noise: Tensor) -> Tensor:
        return self._have("estimate").square() @ noise


def estimate_matrix(covariance: Tensor, matrix: Tensor) -> Tensor:
    """Return B = C Aᵀ (A C Aᵀ + I)⁻¹, (D, k): mean + B y is the best linear estimate of z from the wire y.

    Args:
        covariance: C of the features, (D, D).
        matrix: A of `wire_matrix`, (k, D).
    """
    signal = covariance @ matrix.T
    estimate = torch.linalg.solve(matrix @ signal + torch.eye(len(matrix), dtype=matrix.dtype), signal.T).T
    shown = estimate.square().sum(1)
    # What is left of a value that is all but constant would be noise too faint for float32 to tell its variance.
    return torch.where((shown > DUST * shown.max())[:, None], estimate, 0.0)
