"""Moments of wires of which some entries are hidden, and the linear systems of their Gaussian model."""

from __future__ import annotations

import torch
from torch import Tensor

from ..runtime import Budget, Runtime, State
from .base import BATCH

Moments = tuple[Tensor, Tensor, Tensor, Tensor]
"""Means of the wire and of the images, covariance of the wire, covariance of both."""


def means(known: Tensor, counts: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of the wire's entries (N, m), each over the rows that show it, and of the images (N, d)."""
    there = counts > 0
    return (known * there).sum(0) / there.sum(0).clamp(min=1), x.mean(0)


def moments(known: Tensor, counts: Tensor, x: Tensor, runtime: Runtime, rng: torch.Generator) -> Moments:
    """Return both means, the covariance of the wire, and the one between wire and images.

    Of a wide wire the covariance takes longer than the looks that it is made of: under a budget it is made in parts,
    each a step.
    """
    mean, pixels = means(known, counts, x)
    size = BATCH if runtime.budget != Budget() else max(1, len(x))
    starts, m = range(0, len(x), size), known.shape[1]
    state = State(wire=known.new_zeros(m, m), cross=known.new_zeros(m, x.shape[1]), rows=0)
    for i in runtime.loop("covariance", max(1, len(starts)), state, rng):
        part = slice(i * size, (i + 1) * size)
        centered = torch.where(counts[part] > 0, known[part] - mean, 0)
        state["wire"] += centered.T @ centered
        state["cross"] += centered.T @ (x[part] - pixels)
        state["rows"] += len(centered)
    covariance, cross, rows = state["wire"], state["cross"], state["rows"]
    state.clear()  # the runtime keeps its loops
    return mean, pixels, covariance / rows, cross / rows


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


def filled(precision: Tensor, hidden: Tensor, rows: Tensor, shared: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what hidden entries make of products with the covariance's inverse, by their own block of it.

    With S the inverse of the covariance of the visible entries, and zero elsewhere, S = P − P_·H P_HH⁻¹ P_H·.

    Args:
        precision: P, the inverse of the whole covariance, (m, m).
        hidden: bool (B, m).
        rows: P a of each row, (B, m).
        shared: P n_k, which all rows share, (K, m).

    Returns:
        aᵀ (P − S) n_k, (B, K); n_kᵀ (P − S) n_k, (B, K); and for the row and for each n_k what is to be added to its
        hidden entries for them to be what is expected of them, (B, 1 + K, m).
    """
    most = int(hidden.sum(1).max()) if len(hidden) else 0
    index = hidden.to(rows.dtype).topk(most, 1).indices
    there = hidden.gather(1, index)
    block = precision[index[:, :, None], index[:, None]]
    block = torch.where(there[:, :, None] & there[:, None], block, torch.eye(most).to(block))
    right = torch.cat([rows.gather(1, index)[:, :, None], shared.T[index]], 2) * there[:, :, None]
    factor = torch.linalg.cholesky(block)
    white = torch.linalg.solve_triangular(factor, right, upper=False)
    added = -torch.linalg.solve_triangular(factor.mT, white, upper=True).mT
    spread = rows.new_zeros(len(rows), added.shape[1], rows.shape[1])
    spread.scatter_(2, index[:, None].expand_as(added), added)
    return (white[:, :, :1] * white[:, :, 1:]).sum(1), white[:, :, 1:].square().sum(1), spread
