"""An attack decoder that begins fully connected: for logits, vectors and wires that have lost their places."""

from __future__ import annotations

import math

from torch import nn

from ...registry import plugin
from .base import Blocks, Channels, ImageShape, to_image, upsampling
from .res_norm import ResidualBlock

SIDE = 4
"""Largest side of the feature map that the first layer makes."""


@plugin("dense_normNnCc")
def dense_norm(
    *, feature_shape: tuple[int, ...], image_shape: ImageShape, blocks: Blocks, channels: Channels
) -> nn.Module:
    """Build ``dense_normNnCc``: a dense layer to c channels of 4×4, n residual blocks, transposed convolutions.

    Upsampling ×2 until the image's size, a residual block to the image's channels, sigmoid. Every pixel may depend on
    all of the wire.
    """
    grown = (channels, min(SIDE, image_shape[1]), min(SIDE, image_shape[2]))
    layers: list[nn.Module] = [
        nn.Flatten(),
        nn.Linear(math.prod(feature_shape), math.prod(grown)),
        nn.Unflatten(1, grown),
    ]
    for _ in range(blocks):
        layers += [ResidualBlock(channels, channels), nn.ReLU()]
    layers += upsampling(grown, image_shape, channels)
    return nn.Sequential(*layers, ResidualBlock(channels, image_shape[0]), *to_image(grown, image_shape))
