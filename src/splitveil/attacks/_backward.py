"""The backward pass through a defense: its slope, and a linear map in its place."""

from __future__ import annotations

import torch
from torch import Tensor

from ..model import SplitModel


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
