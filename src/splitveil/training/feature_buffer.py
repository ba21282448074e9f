"""A buffer for the features of an epoch, from which defenses refit themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .fabric import Fabric

FEATURE_BYTES = 2**29
"""Most bytes of the features of an epoch; of wider wires a random part of the images is kept (they come shuffled)."""


def capacity(dimensions: int) -> int:
    """Return how many features of ``dimensions`` float32 numbers are kept at most.

    Args:
        dimensions: numbers in a feature.
    """
    return max(2, FEATURE_BYTES // (4 * dimensions))


class FeatureBuffer:
    """The features (N, m) and classes (N,) of one epoch, in preallocated arrays.

    Args:
        count: number of images of the training set: the most that can come.
    """

    def __init__(self, count: int, device: torch.device):
        self.count, self.device, self.filled = count, device, 0
        self.z: Tensor | None = None
        self.y: Tensor | None = None

    def add(self, z: Tensor, y: Tensor) -> None:
        """Keep the features z (B, ...) of the classes y (B,) while there is room.

        Args:
            z: features (B, ...).
            y: classes (B,).
        """
        flat = z.detach().flatten(1)
        if self.z is None or self.y is None:
            rows = min(self.count, capacity(flat.shape[1]))
            self.z = torch.empty(rows, flat.shape[1], device=self.device)
            self.y = torch.empty(rows, dtype=torch.long, device=self.device)
        rows = min(len(flat), len(self.z) - self.filled)
        self.z[self.filled : self.filled + rows] = flat[:rows]
        self.y[self.filled : self.filled + rows] = y[:rows]
        self.filled += rows

    def gathered(self, fabric: Fabric) -> tuple[Tensor, Tensor]:
        """Return the features of all ranks, the same on each."""
        if self.z is None or self.y is None:
            raise RuntimeError("no features were added")
        z, y = self.z[: self.filled], self.y[: self.filled]
        if fabric.world_size == 1:
            return z, y
        rows = [int(n) for n in cast(Tensor, fabric.all_gather(torch.tensor(self.filled, device=self.device)))]
        longest = max(rows)
        z = nn.functional.pad(z, (0, 0, 0, longest - len(z)))
        y = nn.functional.pad(y, (0, longest - len(y)))
        all_z, all_y = cast(Tensor, fabric.all_gather(z)), cast(Tensor, fabric.all_gather(y))
        return (
            torch.cat([part[:n] for part, n in zip(all_z, rows, strict=True)]),
            torch.cat([part[:n] for part, n in zip(all_y, rows, strict=True)]),
        )
