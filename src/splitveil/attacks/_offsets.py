"""How an attacker sees a wire to which one of a known collection of offsets was added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ._gaussian import filled
from ._hidden import beside_mask, told
from .base import Victim

NUMBERS = 2**24
"""Most numbers of such systems at once."""


@dataclass(frozen=True)
class Unshifted:
    """The Gaussian model of a feature, by which the offset n_k on its wire can be told, and of the images behind it.

    Noise that was added beside the offset counts as a part of the feature. Where entries are hidden and anybody can
    tell which, all is said of the others, and the hidden ones become what is expected of them; or they count as they
    are, where that is better on held-out images, as where the small ones are hidden.

    p_k ∝ exp(−½ (z_wire − n_k − μ)ᵀ (C + r I)⁻¹ (z_wire − n_k − μ)). What is expected of the feature is z_wire −
    Σ_k p_k n_k, and of the image what the linear regression says of that: both are exact for jointly Gaussian image and
    feature.

    Attributes:
        victim: says which entries of a wire are visible.
        offsets: (K, m).
        mean, pixels: means of the feature, (m,), and of the images, (d,).
        covariance, cross: covariances of the feature, (m, m), and between feature and images, (m, d).
        hides: whether entries of the wires are hidden; imputes: whether these are imputed.
        ridge: r, with the least error on held-out images; error: mean squared error of `images` on these.
    """

    victim: Victim
    offsets: Tensor
    mean: Tensor
    pixels: Tensor
    covariance: Tensor
    cross: Tensor
    hides: bool = False
    imputes: bool = False
    ridge: float = 0.0
    error: float = math.inf

    def squared_error(self, wire: Tensor, x: Tensor) -> float:
        """Return the mean squared error of `images`."""
        return float((self.images(wire).clamp(0, 1) - x).square().mean())

    @cached_property
    def _factor(self) -> Tensor:
        """Return the lower triangular root of C + r I."""
        ridge = self.ridge * self.covariance.diagonal().mean().clamp(min=1e-12)
        return torch.linalg.cholesky(self.covariance + ridge * torch.eye(len(self.mean)).to(self.mean))

    @cached_property
    def _precision(self) -> Tensor:
        return torch.cholesky_inverse(self._factor)

    def _unshifted(self, wire: Tensor) -> Tensor:
        size = max(1, NUMBERS // wire.shape[1:].numel() ** 2) if self.imputes else max(1, len(wire))
        return torch.cat([self._of_few(part) for part in wire.split(size)])

    def _of_few(self, wire: Tensor) -> Tensor:
        there, possible = told(self.victim, wire) if self.hides else (None, None)
        flat = wire.flatten(1).double()
        rows, shared = (flat - self.mean) @ self._precision, self.offsets @ self._precision
        # The length of the rest is the same for all candidates, and would drown their differences.
        fits, lengths = rows @ self.offsets.T, (shared * self.offsets).sum(1)
        if self.imputes and there is not None:
            less, shorter, added = filled(self._precision, ~there, rows, shared)
            fits, lengths = fits - less, lengths - shorter
        fits = fits - lengths / 2
        part = torch.softmax(fits if possible is None else fits.masked_fill(~possible, -torch.inf), 1)
        feature = flat - part @ self.offsets
        if self.imputes and there is not None:
            feature = feature + added[:, 0] - torch.einsum("bk,bkm->bm", part, added[:, 1:])
        return feature

    def images(self, wire: Tensor) -> Tensor:
        """Return the expected image behind each wire (B, ...): (B, d)."""
        weights = torch.cholesky_solve(self.cross, self._factor)
        return (self.pixels + (self._unshifted(wire) - self.mean) @ weights).float()

    def __call__(self, wire: Tensor) -> Tensor:
        """Return the expected feature behind each wire (B, C, ...), with the mask as further channels if any is."""
        feature = self._unshifted(wire).view_as(wire).to(wire.dtype)
        there = told(self.victim, wire)[0] if self.hides else None
        return feature if there is None else beside_mask(feature, there)
