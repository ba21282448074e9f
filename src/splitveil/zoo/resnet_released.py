"""The ResNet of the published checkpoints, where it differs from `resnet_stem5`."""

from __future__ import annotations

from torch import nn

from ..ranges import Count, Pixels
from ..registry import plugin
from ._released import released_halves
from .base import Bottleneck, Parts, assemble, initialize
from .resnet import WIDTHS, residual_blocks, residual_head


@plugin(*(f"{name}_released{double}" for name in ("resnet20", "resnet32") for double in ("", "_double")))
def resnet_released(
    arch: str, *, cut: int | None, classes: Count, image_size: Pixels, bottleneck: Bottleneck | None = None
) -> Parts:
    """Build a ResNet of the published code, for its checkpoints: 5×5 stem, sigmoid, chains for strides above 2.

    With ``_double`` a bare convolution 16 → 16 follows the stem, as PATROL's; it counts as a part of the stem.
    ``cut`` counts as in ``resnet``.
    """
    blocks = residual_blocks(arch, stem=5)
    if arch.endswith("_double"):
        second = nn.Conv2d(WIDTHS[0], WIDTHS[0], 3, padding=1, bias=False)
        initialize(second)
        blocks[0] = nn.Sequential(blocks[0], second)
    return assemble(
        arch,
        blocks,
        residual_head(classes),
        cut=cut,
        image_size=image_size,
        bottleneck=bottleneck,
        halves=released_halves,
        sigmoid=True,
    )
