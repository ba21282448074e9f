"""A training on images that a loader reads anew in each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data import Split, to_float
from ..data.streamed import Streamed
from ..errors import UserError
from ..model import SplitModel
from ..recipe import REFIT, Recipe
from .feature_buffer import capacity
from .loop import Training

if TYPE_CHECKING:
    from .fabric import Fabric


class StreamedTraining(Training):
    """`Training` with one batch of the loader for each step: its size, order and workers are the loader's.

    Args:
        stream: batches that it learns from. The others are those of `Training`; ``classes`` counts the outputs.

    Raises:
        UserError: as `Training`; a label beyond the outputs, or an epoch without a batch of two images.
    """

    def __init__(
        self,
        model: SplitModel,
        stream: Streamed,
        validate: Split | Streamed | None,
        settings: Recipe,
        classes: int,
        fabric: Fabric,
    ):
        self.stream = stream
        super().__init__(model, stream.first, validate, settings, classes, fabric)

    @property
    def count(self) -> int:
        """Return the number of images of an epoch."""
        return len(self.stream)

    def _plan(self, epoch: int) -> tuple[int, Iterator[Any]]:
        return self.stream.batches, self._batches(epoch)

    def _batches(self, epoch: int) -> Iterator[Split]:
        taken = False
        for part in self.stream:
            if len(part) < 2:  # batch norm needs two
                continue
            if part.shape != self.train.shape:
                raise UserError(f"data has images of shapes {self.train.shape} and {part.shape}; expected one")
            if int(part.labels.max()) >= self.classes:
                raise UserError(
                    f"data has the label {int(part.labels.max())}, the network has {self.classes} outputs; "
                    f"expected 0 to {self.classes - 1}"
                )
            taken = True
            yield part.to(self.fabric.device)
        if not taken:
            raise UserError(
                f"the loader gave no batch of 2 images or more in epoch {epoch + 1}; expected one that can be gone "
                "through again, with batches of at least 2"
            )

    def _pair(self, part: Any, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return self._turned(part.images, rng), part.labels

    @torch.no_grad()
    def _extract(self, epoch: int = 0, augmented: bool = False) -> tuple[Tensor, Tensor]:
        """Return the features of as many images as are kept, drawn by their places in another pass over the loader."""
        self.model.eval()
        count = min(self.count, capacity(math.prod(self.model.wire_shape)))
        order = torch.randperm(self.count, generator=self._rng(REFIT, 0, 1, torch.device("cpu")))[:count]
        chosen = torch.zeros(self.count, dtype=torch.bool).index_fill_(0, order, True)
        rng, seen, z, y = self._rng(REFIT, epoch, 2), 0, [], []
        for part in self.stream:
            rows = chosen[seen : seen + len(part)].nonzero().flatten()
            seen += len(part)
            if len(rows):
                few = part.subset(rows).to(self.fabric.device)
                x = self._turned(few.images, rng) if augmented else to_float(few.images)
                z.append(self.model.features(x.to(memory_format=torch.channels_last)).flatten(1))
                y.append(few.labels)
        return torch.cat(z), torch.cat(y)
