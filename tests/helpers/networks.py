"""Networks of two or three layers, to stand where the zoo would build a large one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from splitveil.zoo import Parts


def tiny(*_: Any, classes: int, **__: Any) -> Parts:
    """Batch norm and dropout, the two layers with a state and a randomness of their own."""
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.Sigmoid())
    tail = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, classes))
    return Parts(encoder, tail)


def plain(*_: Any, classes: int, **__: Any) -> Parts:
    """Without batch norm and dropout: it answers the same in training."""
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Sigmoid())
    return Parts(encoder, nn.Sequential(nn.Flatten(), nn.Linear(256, classes)))


def small(*_: Any, classes: int, **__: Any) -> Parts:
    """Images 32×32 to a wire of 8 channels 8×8."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 24, 3, 2, 1),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.Conv2d(24, 8, 3, 2, 1),
        nn.Sigmoid(),
    ]
    return Parts(nn.Sequential(*layers), nn.Sequential(nn.Flatten(), nn.Linear(512, classes)))
