"""Gaussian noise in the directions of the feature that the task needs least."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ranges import Positive
from ..registry import plugin
from ._law import Law
from ._waterfilling import Directions, Statistics, estimate_matrix, wire_matrix
from .base import NEVER, Defense

MOST = 4096
"""Most values of a feature: its covariance is solved whole."""
LEAST = 1e-3
"""Signal-to-noise ratio below which a direction is not sent: it carries less than 0.0005 nats."""


@plugin("waterfill")
class Waterfill(Defense):
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

    def __init__(self, mu: Positive = 0.1, sigma: Positive = 0.025):
        super().__init__()
        self.mu, self.sigma = float(mu), float(sigma)
        for name in self.late_buffers:
            self.register_buffer(name, None)

    @property
    def acts_after(self) -> int:  # type: ignore[override]
        """Return that it never acts in a training unless its matrices are there."""
        return NEVER if self.matrix is None else 0

    def _solve(self, statistics: Statistics, directions: Directions) -> None:
        """Compute the matrices in float64."""
        matrix = wire_matrix(statistics.covariance, directions, self.mu, self.sigma, LEAST)
        self.center, self.matrix = statistics.mean.float(), matrix.float()
        self.estimate = estimate_matrix(statistics.covariance, matrix).float()

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        if self.matrix is None:
            return z
        sent = self._sent(z)
        noise = torch.randn(sent.shape, generator=rng, device=z.device, dtype=torch.float32)
        return self._shown(sent + noise).view(z.shape)

    def _sent(self, z: Tensor) -> Tensor:
        """Return A(z − m), (B, k)."""
        assert self.matrix is not None
        assert self.center is not None
        with torch.autocast(z.device.type, enabled=False):  # small noise would be rounded away
            return (z.flatten(1).float() - self.center) @ self.matrix.T

    def _shown(self, wire: Tensor) -> Tensor:
        """Return m + B y, (B, D)."""
        assert self.center is not None
        assert self.estimate is not None
        with torch.autocast(wire.device.type, enabled=False):
            return self.center + wire @ self.estimate.T

    def _sent_of(self, wire: Tensor) -> Tensor:
        """Return y, (B, k), of what reaches the tail: B has full rank."""
        assert self.estimate is not None
        assert self.center is not None
        inverse = torch.linalg.pinv(self.estimate.double()).float()
        return (wire.flatten(1).float() - self.center) @ inverse.T

    def law(self, wire: Tensor, before: Law) -> Law:
        if self.estimate is None:
            return before
        if not before.exact:  # noise before the matrix is correlated behind it
            return before.silent()
        variance = self.estimate.square().sum(1).view(wire.shape[1:])
        return Law(variance, reduced=self._sent_of)

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
        if self.matrix is None:
            return mean, variance
        if bool(variance.any()):
            return None
        # The numbers that are sent: what reaches the tail is computed from them.
        sent = self._sent(mean)
        return sent, torch.ones_like(sent)
