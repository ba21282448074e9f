"""Moments of wires of which some entries are hidden, and the linear systems of their Gaussian model."""

from __future__ import annotations

import torch
from torch import Tensor


def means(known: Tensor, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of the wire's entries (N, m), each over the rows that show it, and of the images (N, d)."""
    there = counts > 0
    return (known * there).sum(0) / there.sum(0).clamp(min=1), x.mean(0)


def moments(known: Tensor, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return both means, the covariance of the wire, and the one between wire and images."""
    mean, pixels = means(known, counts, x)
    centered = torch.where(counts > 0, known - mean, 0)
    return mean, pixels, centered.T @ centered / len(x), centered.T @ (x - pixels) / len(x)


def solved(matrix: Tensor, diagonal: Tensor, there: Tensor, target: Tensor, rounds: int) -> Tensor:
    """Solve (matrix + diag) u = target on the entries ``there`` by preconditioned conjugate gradients."""
    scale = (matrix.diagonal() + diagonal).clamp(min=1e-12)
    x, residual = torch.zeros_like(target), target
    direction = z = residual / scale
    power = (residual * z).sum(1, keepdim=True)
    for _ in range(rounds):
        image = torch.where(there, direction @ matrix + direction * diagonal, 0)
        step = power / (direction * image).sum(1, keepdim=True).clamp(min=1e-20)
        x, residual = x + step * direction, residual - step * image
        z = residual / scale
        after = (residual * z).sum(1, keepdim=True)
        direction, power = z + after / power.clamp(min=1e-20) * direction, after
    return x
