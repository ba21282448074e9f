"""Samples of each class side by side in one array."""

from __future__ import annotations

import torch
from torch import Tensor


def by_class(z: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Group samples by class into one padded array.

    Args:
        z: (N, m) features.
        y: (N,) class indices in [0, classes).
        classes: number of classes C.

    Returns:
        (C, n, m) features with zeros as padding, n the size of the largest class, and the (C, n) validity mask.
    """
    counts = torch.bincount(y, minlength=classes)
    order = torch.argsort(y, stable=True)
    sorted_y = y[order]
    within = torch.arange(len(y), device=y.device) - (counts.cumsum(0) - counts)[sorted_y]
    n = max(int(counts.max()), 1)
    slots = torch.full((classes, n), len(y), device=y.device, dtype=torch.long)
    slots[sorted_y, within] = order
    valid = slots < len(y)
    grouped = z[slots.clamp(max=len(y) - 1).flatten()].view(classes, n, -1)
    return grouped.mul_(valid[..., None]), valid
