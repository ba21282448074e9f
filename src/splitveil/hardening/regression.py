"""The error of a linear attacker on a wide wire: a regression from some images, tried on others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEARNED, TRIED = 2000, 500
"""Images that the regression learns from, and those on which its error is measured; of fewer, a fifth is tried."""


@dataclass(frozen=True)
class Sample:
    """Coordinates of features beside random sums of the pixels of their images.

    Attributes:
        coordinates: (M, D), in float32.
        sums: (M, K); each sum has the squared length of an image as its mean square, over random signs.
        pixels: values of an image.
    """

    coordinates: Tensor
    sums: Tensor
    pixels: int

    def error(self, kept: Tensor, noise: Tensor) -> float:
        """Return the mean squared error per pixel of ridge regression on what is sent.

        With N the noise's covariance, the regression W = C_xz (C_z + N)⁻¹ is that of the moments of M images. By the
        push-through identity W z = Xᵀ (K + M I)⁻¹ Z N⁻¹ z, K = Z N⁻¹ Zᵀ, so that nothing of the width of the wire is
        solved. The error on other images has the noise of their wires in it, tr W N Wᵀ.

        Args:
            kept: indices of the coordinates that are sent, (k,).
            noise: variance of the noise on each of them, (k,).
        """
        count = len(self.coordinates) - max(1, min(TRIED, len(self.coordinates) // 5))
        scaled = self.coordinates[:, kept] / noise.sqrt().to(self.coordinates)
        center, mean = scaled[:count].mean(0), self.sums[:count].mean(0)
        kernel = ((scaled - center) @ (scaled[:count] - center).T).double()
        known, sums = kernel[:count], (self.sums - mean).double()
        ridge = known + count * torch.eye(count, dtype=torch.float64, device=known.device)
        weights = torch.linalg.solve(ridge, sums[:count])
        missed = (sums[count:] - kernel[count:] @ weights).square().mean(0).sum()
        through = (weights * (known @ weights)).sum()
        return float(missed + through) / sums.shape[1] / self.pixels
