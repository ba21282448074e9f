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
    """Variances of the cosine coefficients of images (N, C, H, W).

    Attributes:
        down, across: orthonormal cosine transforms, (H, H) and (W, W).
        colors: principal colors in columns, (C, C).
        deviation: standard deviation of each coefficient, (C, H, W).
    """

    down: Tensor
    across: Tensor
    colors: Tensor
    deviation: Tensor

    @classmethod
    def fit(cls, x: Tensor) -> CosineModel:
        """Return the model whose variances are mean squares about zero, each pooled with those of its frequency."""
        axes = cosine_transform(x.shape[2]).to(x), cosine_transform(x.shape[3]).to(x)
        colors = torch.linalg.eigh(torch.einsum("bchw,bdhw->cd", x, x))[1]
        model = cls(*axes, colors, torch.ones_like(x[0]))
        own = model.coefficients(x).square().mean(0)
        variance = (len(x) * own + POOLED * _same_frequency(own)) / (len(x) + POOLED)
        return cls(*axes, colors, variance.clamp(min=LEAST).sqrt())

    def coefficients(self, x: Tensor) -> Tensor:
        """Return the cosine coefficients (B, C, H, W) of the principal colors of x."""
        return self.down @ torch.einsum("bchw,cd->bdhw", x, self.colors) @ self.across.T

    def image(self, u: Tensor) -> Tensor:
        """Return the images whose coefficients are u (B, C, H, W) standard deviations."""
        return torch.einsum("bdhw,cd->bchw", self.down.T @ (u * self.deviation) @ self.across, self.colors)


def cosine_transform(size: int) -> Tensor:
    """Return the orthonormal DCT-II matrix (S, S): √(2/S) cos(π (2n + 1) k / 2S), the first row divided by √2.

    >>> c = cosine_transform(4)
    >>> torch.allclose(c @ c.T, torch.eye(4), atol=1e-6)
    True
    """
    n = torch.arange(size, dtype=torch.float64)
    rows = math.sqrt(2 / size) * torch.cos(math.pi / size * (n + 0.5) * n[:, None])
    rows[0] /= math.sqrt(2)
    return rows.float()


def _same_frequency(variance: Tensor) -> Tensor:
    """Return, for each coefficient, the mean over its color's coefficients with the same sum of frequencies."""
    rows, columns = (torch.arange(size, device=variance.device) for size in variance.shape[1:])
    ring = (rows[:, None] + columns).flatten()
    sums = torch.zeros(len(variance), int(ring.max()) + 1, device=variance.device)
    sums = sums.index_add(1, ring, variance.flatten(1))
    return (sums / torch.bincount(ring))[:, ring].view_as(variance)
