"""A U-Net-like attack decoder: context from the whole feature beside its details."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ...registry import plugin
from .base import Blocks, Channels, ImageShape, to_image, upsampling
from .res_norm import ResidualBlock

LEVELS = 2
"""Number of halvings of the feature, as long as its sides are 2 or more."""


class UNet(nn.Module):
    """Residual blocks down to half and quarter size and up again, with skip connections: (B, C, H, W) at one size."""

    def __init__(self, inputs: int, channels: int, blocks: int, levels: int):
        super().__init__()
        widths = [channels * 2**level for level in range(levels + 1)]
        self.first = ResidualBlock(inputs, channels)
        self.down = nn.ModuleList(_stage(a, b, blocks) for a, b in pairwise(widths))
        self.bottom = _stage(widths[-1], widths[-1], blocks)
        self.up = nn.ModuleList(_stage(a + b, a, blocks) for a, b in pairwise(widths))
        self.pool = nn.AvgPool2d(2)

    def forward(self, z: Tensor) -> Tensor:
        z, skips = self.first(z), []
        for stage in self.down:
            skips.append(z)
            z = stage(self.pool(z))
        z = self.bottom(z)
        for stage, skip in zip(reversed(self.up), reversed(skips), strict=True):
            z = stage(torch.cat([skip, interpolate(z, skip.shape[2:], mode="nearest")], 1))
        return z


@plugin("unet_normNnCc")
def unet_norm(
    *, feature_shape: tuple[int, int, int], image_shape: ImageShape, blocks: Blocks, channels: Channels
) -> nn.Module:
    """Build ``unet_normNnCc``: a U-Net of c, 2c, 4c channels (1 + n residual blocks each), transposed convolutions.

    Upsampling ×2 until the image's size, a residual block to the image's channels, sigmoid. Its receptive field is the
    whole feature.
    """
    levels = min(LEVELS, min(feature_shape[1:]).bit_length() - 1)
    layers = [UNet(feature_shape[0], channels, blocks, levels), nn.ReLU()]
    layers += upsampling(feature_shape, image_shape, channels)
    return nn.Sequential(*layers, ResidualBlock(channels, image_shape[0]), *to_image(feature_shape, image_shape))


def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(inputs, outputs), *(ResidualBlock(outputs, outputs) for _ in range(blocks)))
