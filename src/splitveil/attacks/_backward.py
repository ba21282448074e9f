"""The backward pass through a defense: its slope, and a linear map in its place."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..model import SplitModel

Mode = Literal["exact", "straight_through"]


def modes_of(model: SplitModel, z: Tensor, wire: torch.Size, rng: torch.Generator) -> tuple[Mode, ...]:
    """Return the backward passes through a defense that are worth trying, as `WhiteBox` explains them.

    Args:
        model: with its defense.
        z: features (B, ...).
        wire: shape of one image's wire.
        rng: generator of the noise.
    """
    slope = slope_of(model, z[:2], rng)
    if slope is None or not bool(slope.any()):
        return ("straight_through",)
    if slope.shape[1:] == wire and torch.allclose(slope, torch.ones_like(slope)):
        # Two features may lie within a clip that others do not.
        slope = slope_of(model, z, torch.Generator(z.device).manual_seed(0))
        if slope is not None and torch.allclose(slope, torch.ones_like(slope)):
            return ("exact",)
    return "exact", "straight_through"


def slope_of(model: SplitModel, z: Tensor, rng: torch.Generator) -> Tensor | None:
    """Return the gradient of the sum of the wire with respect to z (B, ...); None where there is no path."""
    z = z.detach().requires_grad_()
    with torch.enable_grad():
        wire = model.protect(z, rng)
        if not wire.requires_grad:
            return None
        return torch.autograd.grad(wire.sum(), z, allow_unused=True)[0]


def linear_map(z: Tensor, wire: Tensor) -> Tensor:
    """Return the matrix (m_z, m_wire) of a ridge regression from z to the wire.

    It is the backward pass where the wire is shaped differently from the feature.
    """
    a, b = z.flatten(1).double(), wire.flatten(1).double()
    a, b = a - a.mean(0), b - b.mean(0)
    gram = a @ a.T  # few rows, many columns: solve in the space of the rows
    ridge = 1e-3 * gram.diagonal().mean().clamp(min=1e-12) * torch.eye(len(a), dtype=a.dtype, device=a.device)
    return (a.T @ torch.linalg.solve(gram + ridge, b)).float()
