"""A plain convolutional attack decoder with batch norm: the weak reference beside the residual one."""

from __future__ import annotations

from torch import nn

from ...registry import plugin
from .base import Blocks, Channels, ImageShape, to_image, upsampling


@plugin("conv_normNnCc")
def conv_norm(
    *, feature_shape: tuple[int, int, int], image_shape: ImageShape, blocks: Blocks, channels: Channels
) -> nn.Module:
    """Build ``conv_normNnCc``: 1 + n convolutions to c channels (batch norm, ReLU), then transposed convolutions.

    Upsampling ×2 until the image's size, a convolution to the image's channels, sigmoid. The published one of this name
    also has dropout before the upsampling, batch norm before the sigmoid, and convolutions in place of a first and
    second doubling that are not needed.
    """
    layers: list[nn.Module] = []
    for inputs in [feature_shape[0]] + [channels] * blocks:
        layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    layers += upsampling(feature_shape, image_shape, channels)
    layers.append(nn.Conv2d(channels, image_shape[0], 3, padding=1))
    return nn.Sequential(*layers, *to_image(feature_shape, image_shape))
