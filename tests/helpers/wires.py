"""Models of which only the shape of the wire matters."""

from __future__ import annotations

import torch
from torch import nn

from splitveil.model import SplitModel


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def with_wire(shape: tuple[int, ...] = (4, 3, 3)) -> SplitModel:
    """A model whose wire is whatever is asked for; only its shapes matter."""
    model = SplitModel(nn.Conv2d(3, shape[0], 3), nn.Flatten())
    model.wire_shape = tuple(shape)
    model.image_shape = (3, 12, 12)
    return model
