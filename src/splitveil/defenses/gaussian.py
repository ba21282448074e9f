"""Additive Gaussian noise on the wire."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ranges import Weight
from ..registry import plugin
from ._law import Law
from .base import Defense


@plugin("gaussian")
class Gaussian(Defense):
    """Gaussian noise of standard deviation sigma on every dimension of the wire.

    z_wire = z + ε, ε ~ N(0, σ² I), drawn anew for every query, in training, validation, attack and service.

    Args:
        sigma: standard deviation σ ≥ 0, in units of the feature.

    >>> z = torch.zeros(2, 8, 8, 8)
    >>> Gaussian(0.025).on_wire(z, torch.Generator().manual_seed(0)).std() < 0.03
    tensor(True)
    """

    repeatable = True  # independent noises compose: their variances add

    def __init__(self, sigma: Weight = 0.025):
        super().__init__()
        self.sigma = float(sigma)

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        if self.sigma == 0:
            return z
        noise = torch.randn(z.shape, generator=rng, device=z.device, dtype=torch.float32)
        # In float32: where z is bfloat16, adding there would round small noise away.
        return z.float() + self.sigma * noise

    def law(self, wire: Tensor, before: Law) -> Law:
        return before.with_noise(self.sigma**2)

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        return mean, variance + self.sigma**2

    def noise_variance(self) -> float:
        return self.sigma**2
