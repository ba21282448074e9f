"""Whether noise drowns the differences of the offsets of a known collection."""

from __future__ import annotations

import torch
from torch import Tensor

from ..defenses._law import Law

APART = 6.0
"""Least distance of two offsets, in deviations of what noise makes of it, at which differences of looks tell them."""
FAINT = 1e-6
"""Least variance of the noise on an entry, in units of the mean one: a single entry does not outweigh all others."""


def units(law: Law) -> Tensor:
    """Return how much stronger the noise beside an offset is on each entry than on average, (m,); 1 if it is not told.

    Where some entries have little noise, these tell the offset however strong it is on the others.

    >>> units(Law(0.1).with_noise(torch.tensor([0.0, 0.4])).shifted(torch.ones(3, 2), torch.zeros(1, 2)))
    tensor([0.5774, 1.2910], dtype=torch.float64)
    """
    assert law.offsets is not None
    noise = torch.as_tensor(1.0 if law.beside is None else law.beside, device=law.offsets.device).double()
    shape = torch.broadcast_shapes(noise.shape, (1, *law.offsets.shape[1:]))
    noise = noise.expand(shape).mean(0).flatten()
    if not bool(noise.any()):
        return torch.ones_like(noise)
    return (noise / noise.mean()).clamp(min=FAINT).sqrt()


def drowned(offsets: Tensor, noise: float, share: float = 1.0) -> bool:
    """Return whether noise of this variance drowns the differences of ``offsets``, (K, m).

    Args:
        offsets: (K, m).
        noise: variance of the noise on each entry of a look.
        share: part of the entries that two looks show.
    """
    # Of the distance of two looks along the line between two offsets: their noise has twice the variance of one.
    least = APART * (2 * noise) ** 0.5
    return len(offsets) > 1 and float(torch.nn.functional.pdist(offsets).min()) * share**0.5 < least
