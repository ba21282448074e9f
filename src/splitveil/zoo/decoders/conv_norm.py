"""A plain convolutional attack decoder with batch norm: the weak reference beside the residual one."""

from __future__ import annotations

from torch import nn

from ...ranges import Pixels
from ...registry import plugin
from .base import Blocks, Channels, to_image, upsampling


@plugin("conv_normNnCc")
def conv_norm(
    *, feature_shape: tuple[int, int, int], image_size: Pixels, blocks: Blocks, channels: Channels
) -> nn.Module:
    """``conv_normNnCc``: 1 + n convolutions to c channels (batch norm, ReLU), then transposed convolutions.

    Upsampling ×2 until the image's size, a convolution to RGB, sigmoid. The published one of this name also has dropout
    before the upsampling, batch norm before the sigmoid, and convolutions in place of a first and second doubling that
    are not needed.
    """
    layers: list[nn.Module] = []
    for inputs in [feature_shape[0]] + [channels] * blocks:
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    layers += upsampling(feature_shape, image_size, channels)
    return nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, padding=1), *to_image(feature_shape, image_size))
