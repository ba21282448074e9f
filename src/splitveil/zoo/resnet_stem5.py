"""The ResNet of the published checkpoints: like `resnet`, but its stem is a 5×5 convolution."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from ..registry import plugin
from .base import Bottleneck, Parts, assemble, conv_bn_relu, initialise
from .resnet import WIDTHS, BasicBlock


@plugin("resnet20_stem5", "resnet20_stem5_sgm", "resnet32_stem5", "resnet32_stem5_sgm")
def resnet_stem5(arch: str, *, cut: int, classes: int, image_size: int, bottleneck: Bottleneck | None = None) -> Parts:
    """ResNet of the published code: a 5×5 stem, widths 16/32/64/128; ``_sgm``: the encoder ends in a sigmoid.

    The paper's ResNet-20 is read as that of He et al. with a 3×3 stem (``resnet20``); the published
    checkpoints have a 5×5 one and always the sigmoid. ``cut`` counts [stem, block, ...], as in ``resnet``.
    """
    per_stage = (int(arch.split("_")[0].removeprefix("resnet")) - 2) // 6
    blocks: list[nn.Module] = [nn.Sequential(*conv_bn_relu(3, WIDTHS[0], kernel=5))]
    for inputs, outputs in pairwise(WIDTHS):
        blocks.append(BasicBlock(inputs, outputs, stride=2))
        blocks += [BasicBlock(outputs, outputs, stride=1) for _ in range(per_stage - 1)]
    for block in blocks:
        initialise(block)
    return assemble(
        arch,
        blocks,
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)),
        cut=cut,
        image_size=image_size,
        bottleneck=bottleneck,
        sigmoid=arch.endswith("_sgm"),
    )
