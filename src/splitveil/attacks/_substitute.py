"""An encoder of the attacker's own in the place of the victim's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Split, to_float


class Substitute(nn.Module):
    """A small convolutional encoder to the shape (C, H, W) of the wire, with its scale free: the attacker's guess."""

    def __init__(self, shape: tuple[int, ...], width: int = 64):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(shape[1:]), nn.Conv2d(width, shape[0], 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Substituted:
    """The attacker's images with the substitute's features."""

    def __init__(self, encoder: nn.Module, split: Split):
        self._encoder, self._split = encoder, split

    def __len__(self) -> int:
        return len(self._split)

    @torch.no_grad()
    def wire(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """The substitute's features (B, C, H, W)."""
        return self._encoder(self.images(index))

    def images(self, index: Tensor) -> Tensor:
        """Pixels in [0, 1]."""
        return to_float(self._split.images[index])
