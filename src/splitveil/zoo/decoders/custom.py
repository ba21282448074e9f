"""A small attack decoder without normalization layers, sized by the feature."""

from __future__ import annotations

from torch import nn

from ...registry import plugin
from .base import ImageShape, doublings, to_image


@plugin("custom")
def custom(*, feature_shape: tuple[int, int, int], image_shape: ImageShape) -> nn.Module:
    """Build ``custom``: a convolution and a transposed convolution per doubling, halving the channels (at least 8).

    Then a convolution to the image's channels and a sigmoid. Without batch norm, an image's output ignores its batch.
    The published network of this name is ``custom_released``.
    """
    channels = feature_shape[0]
    layers: list[nn.Module] = []
    for _ in range(doublings(feature_shape, image_shape)):
        narrow = max(8, channels // 2)
        layers += [
            nn.Conv2d(channels, narrow, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(narrow, narrow, 3, stride=2, padding=1, output_padding=1),
            nn.ReLU(),
        ]
        channels = narrow
    layers.append(nn.Conv2d(channels, image_shape[0], 3, padding=1))
    return nn.Sequential(*layers, *to_image(feature_shape, image_shape))
