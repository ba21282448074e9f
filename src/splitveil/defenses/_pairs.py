"""Distances between all pairs of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

MATRICES = 6
"""Least number of (B, B) matrices that a dependence measure keeps for the backward pass: of each of its two sides the
squares, the replacement of zeros on the diagonal, and the kernel or distance."""


def squared_distances(x: Tensor) -> Tensor:
    """Return ‖x_i − x_j‖² of rows, (B, m) -> (B, B), with an exact zero diagonal; differentiable.

    One matrix product on centered rows: the centring keeps the squares small, whose differences would lose digits.
    """
    x = x - x.detach().mean(0)
    norms = x.square().sum(1)
    square = (norms[:, None] + norms[None] - 2 * x @ x.T).clamp_min(0)
    return square.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), 0)


def distances(x: Tensor) -> Tensor:
    """Return ‖x_i − x_j‖ of rows, (B, m) -> (B, B); the gradient is zero where two rows coincide."""
    square = squared_distances(x)
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)
