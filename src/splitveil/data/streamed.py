"""Images that a loader reads anew whenever they are gone through: they need never be in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from .base import Split


class Streamed:
    """The batches of a loader, each as a `Split`.

    Args:
        loader: with a length; its batch size, order, workers and transforms are its own.
        convert: makes a `Split` of what the loader yields, or refuses it.

    Attributes:
        first: its first batch, read when this is made, by which sizes are checked.
    """

    def __init__(self, loader: DataLoader[Any], convert: Callable[[Any], Split]):
        self._loader, self._convert = loader, convert
        self.first = next(iter(self))

    def __iter__(self) -> Iterator[Split]:
        return map(self._convert, self._loader)

    def __len__(self) -> int:
        """Return the number of images of an epoch, at most."""
        loader: Any = self._loader
        count = len(loader.sampler if hasattr(loader.sampler, "__len__") else loader.dataset)
        return min(count, loader.batch_size * len(loader)) if loader.batch_size else count

    @property
    def batches(self) -> int:
        """Number of batches of an epoch, as the loader tells it."""
        return len(self._loader)
