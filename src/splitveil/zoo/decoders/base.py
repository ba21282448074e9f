"""The steps that all decoders share: upsampling to the image's size, and the map into [0, 1]."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

ImageShape = tuple[int, int, int]
"""Channels, height and width of a decoder's images."""
Blocks = Annotated[int, Field(ge=0, le=256)]
Channels = Annotated[int, Field(ge=1, le=4096)]


def shape_of(size: int | ImageShape) -> ImageShape:
    """Return the shape of images: of square color images, where only their side is given.

    Args:
        size: (C, H, W), or the side of color images.

    >>> shape_of(32), shape_of((1, 20, 28))
    ((3, 32, 32), (1, 20, 28))
    """
    return (3, size, size) if isinstance(size, int) else size


def doublings(feature_shape: tuple[int, int, int], image_shape: ImageShape) -> int:
    """Return how often a feature is doubled without passing the image's height or width.

    Args:
        feature_shape: (C, H, W) of what crosses the wire.
        image_shape: (C, H, W) of the images.

    >>> doublings((8, 8, 8), (3, 32, 32)), doublings((8, 5, 7), (1, 20, 28)), doublings((8, 64, 64), (3, 32, 32))
    (2, 2, 0)
    """
    ratio = min(whole // part for whole, part in zip(image_shape[1:], feature_shape[1:], strict=True))
    return max(0, ratio.bit_length() - 1)


def upsampling(feature_shape: tuple[int, int, int], image_shape: ImageShape, channels: int) -> list[nn.Module]:
    """Return transposed convolutions with batch norm and ReLU, each doubling the size, up to the image's size.

    Args:
        feature_shape: (C, H, W) of what crosses the wire.
        image_shape: (C, H, W) of the images.
        channels: of the layers.
    """
    layers: list[nn.Module] = []
    for _ in range(doublings(feature_shape, image_shape)):
        layers += [
            nn.ConvTranspose2d(channels, channels, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
        ]
    return layers


def to_image(feature_shape: tuple[int, int, int], image_shape: ImageShape) -> list[nn.Module]:
    """Return the last layers: interpolation where doubling does not reach the exact size, then a sigmoid.

    Args:
        feature_shape: (C, H, W) of what crosses the wire.
        image_shape: (C, H, W) of the images.
    """
    factor, size = 2 ** doublings(feature_shape, image_shape), image_shape[1:]
    exact = all(factor * part == whole for whole, part in zip(size, feature_shape[1:], strict=True))
    resize = [] if exact else [nn.Upsample(size, mode="bilinear", align_corners=False)]
    return [*resize, nn.Sigmoid()]
