"""The published attack decoder: residual blocks, then transposed convolutions up to the image."""

from __future__ import annotations

from torch import Tensor, nn

from ...registry import plugin
from .base import Blocks, Channels, ImageShape, to_image, upsampling


class ResidualBlock(nn.Module):
    """Pre-activation residual block: x + conv(relu(bn(conv(relu(bn(x)))))), (B, C, H, W) -> (B, C', H, W)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        self.shortcut: nn.Module = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


@plugin("res_normNnCc")
def res_norm(
    *, feature_shape: tuple[int, int, int], image_shape: ImageShape, blocks: Blocks, channels: Channels
) -> nn.Module:
    """Build ``res_normNnCc``: n residual blocks of c channels, then transposed convolutions; published: N8C64.

    A residual block to c channels, n more, ×2 up to the image's size, a residual block to the image's channels,
    sigmoid. The published one is the same from two doublings on (8×8 to 32 pixels, 12×12 to 48, 16×16 to 64); below, it
    has residual blocks in place of those that are not needed.
    """
    layers: list[nn.Module] = [ResidualBlock(feature_shape[0], channels), nn.ReLU()]
    for _ in range(blocks):
        layers += [ResidualBlock(channels, channels), nn.ReLU()]
    layers += upsampling(feature_shape, image_shape, channels)
    return nn.Sequential(*layers, ResidualBlock(channels, image_shape[0]), *to_image(feature_shape, image_shape))
