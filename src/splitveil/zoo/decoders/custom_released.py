"""The ``custom`` decoder as the published code builds it."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ...registry import plugin
from .base import ImageShape, doublings, to_image


@plugin("custom_released")
def custom_released(*, feature_shape: tuple[int, int, int], image_shape: ImageShape) -> nn.Module:
    """Build ``custom`` of ResSFL's and the CEM paper's code: 699 parameters for 8 channels of 8 × 8 and 32 pixels.

    For each doubling but the last a convolution and a transposed one, at half the channels (at least 1); then a
    convolution that keeps them and a transposed one to the image's channels, without doublings a plain one; sigmoid.
    """
    channels, twice = feature_shape[0], doublings(feature_shape, image_shape)
    widths = [channels]
    for _ in range(twice - 1):
        widths.append(max(1, widths[-1] // 2))
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Conv2d(wide, narrow, 3, padding=1), nn.ReLU(), _double(narrow, narrow), nn.ReLU()]
    layers += [nn.Conv2d(widths[-1], widths[-1], 3, padding=1), nn.ReLU()]
    last = widths[-1], image_shape[0]
    layers.append(_double(*last) if twice else nn.Conv2d(*last, 3, padding=1))
    return nn.Sequential(*layers, *to_image(feature_shape, image_shape))


def _double(inputs: int, outputs: int) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
