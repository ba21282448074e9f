"""Bilateral dependency optimisation (BiDO) with the Hilbert-Schmidt independence criterion."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..errors import UserError
from ..registry import plugin
from ._pairs import squared_distances
from .base import Defense, Step


@plugin("hsic")
class HSIC(Defense):
    """BiDO: the feature shall depend little on the image and much on the label.

    L = λ_x · HSIC(x, z) − λ_y · HSIC(z, y), HSIC = tr(K H L H)/(B − 1)² of the batch, with Gaussian kernels
    exp(−‖·‖²/(2 s² d)) of x and z (d their dimensions) and the linear kernel of the one-hot labels. Peng et
    al., "Bilateral Dependency Optimization", KDD 2022; HSIC: Gretton et al. 2005.

    Args:
        weight: λ_x ≥ 0. label_weight: λ_y ≥ 0.
        bandwidth: s > 0 of the Gaussian kernels.

    >>> HSIC(0.05).label_weight
    0.5
    """

    def __init__(self, weight: float = 0.05, label_weight: float = 0.5, bandwidth: float = 5.0):
        super().__init__()
        if not (0 <= weight < math.inf and 0 <= label_weight < math.inf):
            raise UserError(
                f"hsic: weight is {weight}, label_weight {label_weight}; expected 0 or more, e.g. hsic:0.05"
            )
        if not 0 < bandwidth < math.inf:
            raise UserError(f"hsic: bandwidth is {bandwidth}; expected more than 0, e.g. 5")
        self.weight, self.label_weight, self.bandwidth = float(weight), float(label_weight), float(bandwidth)

    def loss(self, step: Step) -> Tensor | None:
        if self.weight == self.label_weight == 0:
            return None
        kernel = gaussian_kernel(step.z.flatten(1).float(), self.bandwidth)
        images = gaussian_kernel(step.x.flatten(1), self.bandwidth)
        labels = one_hot(step.y, step.logits.shape[1]).to(kernel)
        return self.weight * hsic(images, kernel) - self.label_weight * hsic(kernel, labels @ labels.T)


def gaussian_kernel(x: Tensor, bandwidth: float) -> Tensor:
    """exp(−‖x_i − x_j‖²/(2 s² d)) of rows x (B, d), s the bandwidth -> (B, B)."""
    return torch.exp(-squared_distances(x) / (2 * bandwidth**2 * x.shape[1]))


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 (the kernels' usual names)
    """Biased estimate tr(K H L H)/(B − 1)² of symmetric kernel matrices (B, B), H = I − 11ᵀ/B.

    >>> k = torch.eye(4)
    >>> round(float(hsic(k, k)), 4)  # tr(H)/9
    0.3333
    """
    rows = k.mean(0)
    centered = k - rows[:, None] - rows[None] + rows.mean()
    return (centered * l).sum() / (len(k) - 1) ** 2
