"""Variational information bottleneck."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..ranges import Weight
from ..registry import plugin
from ._law import Law
from ._model import channels_of
from .base import Defense, Step

RANGE = (-6.0, 3.0)
"""Range of log σ, which keeps the noise and its gradient finite."""
START = -3.0
"""Initial log σ: a standard deviation of 0.05."""
MEMORY = 0.01
"""Share of the newest batch in the reported leakage."""


@plugin("vib")
class VIB(Defense):
    """Variational information bottleneck: learned, input-dependent Gaussian noise at a price in nats.

    z_wire = z + σ(z)∘ε, ε ~ N(0, I), log σ a 1×1 convolution of z; L = β · mean_x KL(N(z, σ²) ‖ N(m, s²)), in
    nats per image, m and s learned per channel. E_x KL ≥ I(x; z_wire) for every m and s, so the term is an
    upper bound on the leakage, and ``leakage`` is its running mean over the training batches. Alemi et al.,
    "Deep variational information bottleneck", ICLR 2017.

    ``noise_variance`` is 0: the noise depends on the image, so CEM's bound does not count it. Add
    ``gaussian``.

    Args:
        weight: β ≥ 0.

    >>> VIB(1e-3).leakage() is None
    True
    """

    nats: Tensor

    def __init__(self, weight: Weight = 1e-3):
        super().__init__()
        self.weight = float(weight)
        self.register_buffer("nats", torch.tensor(math.nan))
        self._last: Tensor | None = None

    def install(self, model: Any) -> None:
        channels = channels_of(model, "vib")[0]
        self.log_sigma = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.log_sigma.weight)
        nn.init.constant_(self.log_sigma.bias, START)  # type: ignore[arg-type]
        self.prior_mean = nn.Parameter(torch.zeros(channels, 1, 1))
        self.prior_log_sigma = nn.Parameter(torch.zeros(channels, 1, 1))

    def _log_sigma(self, z: Tensor) -> Tensor:
        return self.log_sigma(z).float().clamp(*RANGE)

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        log_sigma = self._log_sigma(z)
        if self.training and torch.is_grad_enabled():  # for the loss: what arrives here need not be the encoder's z
            prior = self.prior_mean, self.prior_log_sigma.clamp(*RANGE)
            self._last = gaussian_kl(z.float(), log_sigma, *prior).flatten(1).sum(1).mean()
        noise = torch.randn(z.shape, generator=rng, device=z.device)
        return z.float() + log_sigma.exp() * noise

    def law(self, wire: Tensor, before: Law) -> Law:
        """Return a law without a variance: it depends on the image, so it is measured.

        Over hidden entries, and behind a projection, it is about as strong as on average.
        """
        if before.visible is None and before.covered is None and before.directions is None:
            return before.silent()
        return before.with_noise(self._log_sigma(wire).detach().mul(2).exp().mean(0))

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
        return None if bool(variance.any()) else (mean, self._log_sigma(mean).mul(2).exp())

    def loss(self, step: Step) -> Tensor | None:
        nats, self._last = self._last, None
        if nats is None:
            return None
        old = torch.where(self.nats.isnan(), nats.detach(), self.nats)
        self.nats.copy_(torch.lerp(old, nats.detach(), MEMORY))
        return self.weight * nats

    def leakage(self) -> float | None:
        return None if bool(self.nats.isnan()) else float(self.nats)


def gaussian_kl(mean: Tensor, log_sigma: Tensor, prior_mean: Tensor, prior_log_sigma: Tensor) -> Tensor:
    """Return KL(N(mean, σ²) ‖ N(prior_mean, s²)) entry by entry, in nats.

    ln(s/σ) + (σ² + (mean − prior_mean)²)/(2s²) − ½.

    Args:
        mean: mean of the first Gaussian.
        log_sigma: log σ of the first.
        prior_mean: mean of the second.
        prior_log_sigma: log s of the second.

    >>> zero = torch.zeros(1)
    >>> float(gaussian_kl(zero + 1, zero, zero, zero))
    0.5
    """
    ratio = 2 * (log_sigma - prior_log_sigma)
    shift = (mean - prior_mean).square() * torch.exp(-2 * prior_log_sigma)
    return (ratio.exp() + shift - 1 - ratio) / 2
