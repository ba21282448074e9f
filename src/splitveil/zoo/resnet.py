"""ResNet for small images, cut by counting its stem and its residual blocks."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from ..ranges import Count, Pixels
from ..registry import plugin
from .base import Bottleneck, Parts, assemble, conv_bn_relu, initialize

WIDTHS = (16, 32, 64, 128)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))), (B, C, H, W) -> (B, C', ⌈H/stride⌉, ⌈W/stride⌉).

    The shortcut has no weights: every ``stride``-th pixel, zeros for the new channels
    (He et al. 2016, "Deep residual learning for image recognition", option A).
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.residual = nn.Sequential(
            *conv_bn_relu(inputs, outputs, stride=stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.stride = stride
        self.new_channels = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            shortcut = functional.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return functional.relu(shortcut + self.residual(x))


@plugin("resnet20", "resnet20_sgm", "resnet32", "resnet32_sgm")
def resnet(
    arch: str, *, cut: int | None, classes: Count, image_size: Pixels, bottleneck: Bottleneck | None = None
) -> Parts:
    """Build a ResNet with the published widths 16/32/64/128; ``_sgm``: the encoder ends in a sigmoid.

    Depth 6n + 2 is a stem, three stages of n blocks of two convolutions (n = 3: ResNet-20) and a classifier:
    the four widths are the stem's 16 and the stages' 32, 64 and 128. The published shortcut without weights
    can only widen where it also strides, so each stage starts with stride 2 (64 pixels end as 8×8).
    ``cut`` counts the entries of [stem, block, block, ...] that are on the device: 1 to 3n + 1.
    """
    return residual_network(arch, stem=3, cut=cut, classes=classes, image_size=image_size, bottleneck=bottleneck)


def residual_network(
    arch: str, *, stem: int, cut: int | None, classes: Count, image_size: Pixels, bottleneck: Bottleneck | None
) -> Parts:
    """Build the ResNet of the depth in ``arch``, its stem a convolution of side ``stem``."""
    return assemble(
        arch,
        residual_blocks(arch, stem),
        residual_head(classes),
        cut=cut,
        image_size=image_size,
        bottleneck=bottleneck,
        sigmoid="sgm" in arch.split("_"),
    )


def residual_blocks(arch: str, stem: int) -> list[nn.Module]:
    """Return the stem, of side ``stem``, and the residual blocks."""
    per_stage = (int(arch.partition("_")[0].removeprefix("resnet")) - 2) // 6
    blocks: list[nn.Module] = [nn.Sequential(*conv_bn_relu(3, WIDTHS[0], kernel=stem))]
    for inputs, outputs in pairwise(WIDTHS):
        blocks.append(BasicBlock(inputs, outputs, stride=2))
        blocks += [BasicBlock(outputs, outputs, stride=1) for _ in range(per_stage - 1)]
    for block in blocks:
        initialize(block)
    return blocks


def residual_head(classes: int) -> nn.Module:
    """Return the layers after the last block."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes))
