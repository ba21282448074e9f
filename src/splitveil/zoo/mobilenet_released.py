"""The MobileNetV2 of the published checkpoints: other blocks, other cuts, another bottleneck than `mobilenetv2`."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu

from ..ranges import Count, Pixels
from ..registry import plugin
from ._released import released_halves
from .base import Bottleneck, Parts, assemble, initialize
from .mobilenet import LAST, STAGES, STEM


class ReleasedBlock(nn.Module):
    """Expansion (also by 1), depthwise, projection, with ReLU; at stride 1 a shortcut, 1×1 where it must widen."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int):
        super().__init__()
        hidden = inputs * expansion
        self.conv1 = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False)
        self.bn2 = nn.BatchNorm2d(hidden)
        self.conv3 = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.adds_input = stride == 1
        widens = stride == 1 and inputs != outputs
        layers = [nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)] if widens else []
        self.shortcut = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out = relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(relu(self.bn2(self.conv2(out)))))
        return out + self.shortcut(x) if self.adds_input else out


@plugin("mobilenetv2_released")
def mobilenetv2_released(
    arch: str, *, cut: int | None, classes: Count, image_size: Pixels, bottleneck: Bottleneck | None = None
) -> Parts:
    """Build MobileNetV2 of the published code, for its checkpoints: the encoder ends in neither sigmoid nor batch norm.

    ``cut`` counts the entries of [stem, 7 stages, last convolution] that are on the device: 1 to 9. Neither the
    stem nor the last convolution has a ReLU, the bottleneck always has, whatever its setting, and its cloud half
    is 1×1. The head takes the means of 4×4 places (32 to 56 pixels: 1,280 inputs).
    """
    blocks: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, STEM, 3, padding=1, bias=False), nn.BatchNorm2d(STEM))]
    inputs = STEM
    for expansion, outputs, count, first in STAGES:
        stage: list[nn.Module] = []
        for stride in [first] + [1] * (count - 1):
            stage.append(ReleasedBlock(inputs, outputs, expansion, stride))
            inputs = outputs
        blocks.append(nn.Sequential(*stage))
    blocks.append(nn.Sequential(nn.Conv2d(inputs, LAST, 1, bias=False), nn.BatchNorm2d(LAST)))
    side = image_size
    for *_, first in STAGES:
        side = math.ceil(side / first)
    for block in blocks:
        initialize(block)
    return assemble(
        arch,
        blocks,
        nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(LAST * (side // 4) ** 2, classes)),
        cut=cut,
        image_size=image_size,
        smallest=32,
        bottleneck=None if bottleneck is None else replace(bottleneck, relu=True),
        halves=partial(released_halves, back_kernel=1),
    )
