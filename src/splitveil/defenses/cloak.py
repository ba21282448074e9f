"""Gaussian noise with a learned strength for each dimension."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..ranges import Positive, Weight
from ..registry import plugin
from ._law import Law
from ._model import wire_shape
from .base import Defense, Step


@plugin("cloak")
class Cloak(Defense):
    """Learned noise: Gaussian noise whose standard deviation is learned for every dimension of the wire.

    z_wire = z + σ∘ε, ε ~ N(0, I), σ_d = low + (high − low)·(1 + tanh ρ_d)/2, trained with the network by
    L_task − λ · mean_d ln σ_d: the noise grows where the task does not need the dimension. After Cloak
    (Mireshghallah et al., "Not all features are equal", WWW 2021), there on the pixels of a frozen network.

    ``noise_variance`` is low²: noise of a larger σ_d is noise of ``low`` plus more, so CEM's bound holds with
    it.

    Args:
        weight: λ ≥ 0. low, high: range of σ_d, 0 < low < high, in units of the feature.

    >>> round(Cloak(1.0, low=0.1).noise_variance(), 6)
    0.01
    """

    def __init__(self, weight: Weight = 1.0, low: Positive = 0.025, high: Positive = 1.0):
        super().__init__()
        if low >= high:
            raise UserError(f"cloak: low is {low}, high {high}; expected low below high, e.g. low=0.025,high=1")
        self.weight, self.low, self.high = float(weight), float(low), float(high)

    def install(self, model: Any) -> None:
        self.rho = nn.Parameter(torch.full(wire_shape(model, "cloak"), -2.0))  # starts 2 % above low

    def _sigma(self) -> Tensor:
        return self.low + (self.high - self.low) * (1 + self.rho.tanh()) / 2

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        noise = torch.randn(z.shape, generator=rng, device=z.device)
        return z.float() + self._sigma() * noise

    def loss(self, step: Step) -> Tensor | None:
        return -self.weight * self._sigma().log().mean() if self.weight else None

    def law(self, wire: Tensor, before: Law) -> Law:
        return before.with_noise(self._sigma().detach().square())

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        return mean, variance + self._sigma().detach().square()

    def noise_variance(self) -> float:
        return self.low**2
