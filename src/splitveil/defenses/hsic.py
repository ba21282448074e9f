"""Bilateral dependency optimization (BiDO) with the Hilbert-Schmidt independence criterion."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..memory import FLOAT
from ..ranges import Positive, Weight
from ..registry import plugin
from ._pairs import MATRICES, squared_distances
from .base import Defense, Step

EPSILON = 1e-5
"""Regularization of the normalized form per image of the batch, as published."""


@plugin("hsic")
class HSIC(Defense):
    """BiDO: makes the feature depend little on the image and much on the label.

    L = λ_x · HSIC(x, z) − λ_y · HSIC(z, y), with Gaussian kernels exp(−‖·‖²/(2 s² d)) of x and z (d their
    dimensions) and the linear kernel of the one-hot labels. Peng et al., "Bilateral Dependency Optimization",
    KDD 2022 (arXiv 2206.05483), whose code computes the normalized form; HSIC: Gretton et al. 2005.

    Of centered kernel matrices K̃ = HKH and L̃ of a batch of B images:

    - ``form="normalized"``: tr[K̃(K̃ + εBI)⁻¹ L̃(L̃ + εBI)⁻¹], ε = 1e-5: from 0 to B − 1, whatever the kernels' scale.
    - ``form="plain"``: tr(K̃L̃)/(B − 1)². Kernels of high-dimensional images are nearly constant, so at these weights
      it pulls with less than a thousandth of the task.

    Args:
        weight: λ_x ≥ 0. label_weight: λ_y ≥ 0.
        bandwidth: s > 0 of the Gaussian kernels.
        form: "normalized" or "plain".

    >>> HSIC(0.05).label_weight
    0.5
    """

    def __init__(
        self,
        weight: Weight = 0.05,
        label_weight: Weight = 0.5,
        bandwidth: Positive = 5.0,
        form: Literal["normalized", "plain"] = "normalized",
    ):
        super().__init__()
        self.weight, self.label_weight, self.bandwidth = float(weight), float(label_weight), float(bandwidth)
        self.form = form

    def memory(self, batch: int, feature: tuple[int, ...], classes: int) -> dict[str, int]:
        return {"batch_size": MATRICES * FLOAT * batch**2}

    def loss(self, step: Step) -> Tensor | None:
        if self.weight == self.label_weight == 0:
            return None
        kernel = gaussian_kernel(step.z.flatten(1).float(), self.bandwidth)
        images = gaussian_kernel(step.x.flatten(1).float(), self.bandwidth)
        # one_hot would look at the values first, and a step must not wait for them.
        labels = (step.y[:, None] == torch.arange(step.logits.shape[1], device=step.y.device)).to(kernel)
        measure = normalized_hsic if self.form == "normalized" else hsic
        return self.weight * measure(images, kernel) - self.label_weight * measure(kernel, labels @ labels.T)


def gaussian_kernel(x: Tensor, bandwidth: float) -> Tensor:
    """Return exp(−‖x_i − x_j‖²/(2 s² d)) of rows x (B, d), s the bandwidth -> (B, B).

    Args:
        x: rows (B, d).
        bandwidth: s.
    """
    return torch.exp(-squared_distances(x) / (2 * bandwidth**2 * x.shape[1]))


def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741 (the kernels' usual names)
    """Return the biased estimate tr(K H L H)/(B − 1)² of symmetric kernel matrices (B, B), H = I − 11ᵀ/B.

    Args:
        k: kernel matrix (B, B).
        l: kernel matrix (B, B).

    >>> k = torch.eye(4)
    >>> round(float(hsic(k, k)), 4)  # tr(H)/9
    0.3333
    """
    return (_centered(k) * l).sum() / (len(k) - 1) ** 2


def normalized_hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
    """Return tr[K̃(K̃ + εBI)⁻¹ L̃(L̃ + εBI)⁻¹] of symmetric kernel matrices (B, B), K̃ = HKH, ε = `EPSILON`.

    Args:
        k: kernel matrix (B, B).
        l: kernel matrix (B, B).

    >>> k = torch.eye(4)
    >>> round(float(normalized_hsic(k, k)), 3)  # tr(H), but for ε
    3.0
    """
    return (_shrunk(k) * _shrunk(l)).sum()  # both symmetric


def _shrunk(k: Tensor) -> Tensor:
    """Return K̃(K̃ + εBI)⁻¹: the same eigenvectors, eigenvalues κ/(κ + εB)."""
    centered = _centered(k)
    ridge = EPSILON * len(k) * torch.eye(len(k), dtype=k.dtype, device=k.device)
    return torch.linalg.solve_ex(centered + ridge, centered)[0]  # `solve` would wait for the device to check for errors


def _centered(k: Tensor) -> Tensor:
    rows = k.mean(0)  # k is symmetric
    return k - rows[:, None] - rows[None] + rows.mean()
