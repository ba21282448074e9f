"""A Gaussian model of images or errors: independent cosine coefficients in principal colors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

POOLED = 10
"""Weight, in images, of the mean variance of the coefficients of one color and similar frequency."""
LEAST = 1e-10
"""Least variance: below the rounding of 8-bit pixels."""


@dataclass(frozen=True)
class CosineModel:
    """What `fit` has learned of images (N, C, H, W).

    Attributes:
        down, across: orthonormal cosine transforms, (H, H) and (W, W). colors: principal colors in columns, (C, C).
        deviation: standard deviation of each coefficient, (C, H, W).
    """

    down: Tensor
    across: Tensor
    colors: Tensor
    deviation: Tensor

    @classmethod
    def fit(cls, x: Tensor) -> CosineModel:
        """The mean squares about zero of the coefficients of x (N, C, H, W), each drawn a little to its frequency's."""
        axes = cosine_transform(x.shape[2]).to(x), cosine_transform(x.shape[3]).to(x)
        colors = torch.linalg.eigh(torch.einsum("bchw,bdhw->cd", x, x))[1]
        model = cls(*axes, colors, torch.ones_like(x[0]))
        own = model.coefficients(x).square().mean(0)
        variance = (len(x) * own + POOLED * _same_frequency(own)) / (len(x) + POOLED)
        return cls(*axes, colors, variance.clamp(min=LEAST).sqrt())

    def coefficients(self, x: Tensor) -> Tensor:
        """Cosine coefficients of the principal colors of x, (B, C, H, W)."""
        return self.down @ torch.einsum("bchw,cd->bdhw", x, self.colors) @ self.across.T

    def image(self, u: Tensor) -> Tensor:
        """The image whose coefficients are u (B, C, H, W) standard deviations."""
        return torch.einsum("bdhw,cd->bchw", self.down.T @ (u * self.deviation) @ self.across, self.colors)


def cosine_transform(size: int) -> Tensor:
    """Orthonormal DCT-II as a matrix: √(2/S) cos(π (2n + 1) k / 2S), the first row divided by √2.

    >>> c = cosine_transform(4)
    >>> torch.allclose(c @ c.T, torch.eye(4), atol=1e-6)
    True
    """
    n = torch.arange(size, dtype=torch.float64)
    rows = math.sqrt(2 / size) * torch.cos(math.pi / size * (n + 0.5) * n[:, None])
    rows[0] /= math.sqrt(2)
    return rows.float()


def _same_frequency(variance: Tensor) -> Tensor:
    """The mean over all coefficients of a color whose two frequencies have the same sum, (C, H, W)."""
    rows, columns = (torch.arange(size, device=variance.device) for size in variance.shape[1:])
    ring = (rows[:, None] + columns).flatten()
    sums = torch.zeros(len(variance), int(ring.max()) + 1, device=variance.device)
    sums = sums.index_add(1, ring, variance.flatten(1))
    return (sums / torch.bincount(ring))[:, ring].view_as(variance)
