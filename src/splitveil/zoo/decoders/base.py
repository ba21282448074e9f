"""The steps that every decoder shares: up to the image's size, and into [0, 1]."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

Blocks = Annotated[int, Field(ge=0, le=256)]
Channels = Annotated[int, Field(ge=1, le=4096)]


def doublings(feature_shape: tuple[int, int, int], image_size: int) -> int:
    """How often a feature is doubled without passing the image's size.

    >>> doublings((8, 8, 8), 32), doublings((8, 10, 10), 48), doublings((8, 64, 64), 32)
    (2, 2, 0)
    """
    ratio = image_size // max(feature_shape[1:])
    return max(0, ratio.bit_length() - 1)


def upsampling(feature_shape: tuple[int, int, int], image_size: int, channels: int) -> list[nn.Module]:
    """Transposed convolutions with batch norm and ReLU, each doubling the size, up to the image's size."""
    layers: list[nn.Module] = []
    for _ in range(doublings(feature_shape, image_size)):
        layers += [
            nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return layers


def to_image(feature_shape: tuple[int, int, int], image_size: int) -> list[nn.Module]:
    """Pixels in [0, 1] at the exact size: interpolation where doubling does not reach it, then a sigmoid."""
    factor = 2 ** doublings(feature_shape, image_size)
    exact = all(side * factor == image_size for side in feature_shape[1:])
    resize = [] if exact else [nn.Upsample((image_size, image_size), mode="bilinear", align_corners=False)]
    return [*resize, nn.Sigmoid()]
