"""MobileNetV2 for small images, cut by counting its stem and its inverted residual blocks."""

from __future__ import annotations

from torch import Tensor, nn

from ..ranges import Count, Pixels
from ..registry import plugin
from .base import Bottleneck, Parts, assemble, conv_bn_relu, initialize

STEM, LAST = 32, 1280
# expansion, width, blocks, stride of the first: Sandler et al. 2018, table 2, with strides for small images.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1×1 expansion, 3×3 depthwise, linear 1×1 projection; added to x where the shape allows it."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, stride: int):
        super().__init__()
        hidden = inputs * expansion
        expand = _conv_bn_relu6(inputs, hidden, kernel=1) if expansion > 1 else []
        depthwise = [
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(inplace=True),
        ]
        project = [nn.Conv2d(hidden, outputs, 1, bias=False), nn.BatchNorm2d(outputs)]
        self.layers = nn.Sequential(*expand, *depthwise, *project)
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds_input else self.layers(x)


@plugin("mobilenetv2", "mobilenetv2_sgm")
def mobilenetv2(
    arch: str, *, cut: int | None, classes: Count, image_size: Pixels, bottleneck: Bottleneck | None = None
) -> Parts:
    """Build MobileNetV2 with small strides (32 pixels end as 4×4); ``_sgm``: the encoder ends in a sigmoid.

    ``cut`` counts the entries of [stem, block, block, ...] that are on the device: 1 to 18.
    """
    blocks: list[nn.Module] = [nn.Sequential(*_conv_bn_relu6(3, STEM))]
    inputs = STEM
    for expansion, outputs, count, first_stride in STAGES:
        for stride in [first_stride] + [1] * (count - 1):
            blocks.append(InvertedResidual(inputs, outputs, expansion=expansion, stride=stride))
            inputs = outputs
    head = nn.Sequential(
        *_conv_bn_relu6(inputs, LAST, kernel=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(LAST, classes),
    )
    for module in [*blocks, head]:
        initialize(module)
    return assemble(
        arch,
        blocks,
        head,
        cut=cut,
        image_size=image_size,
        bottleneck=bottleneck,
        sigmoid=arch.endswith("_sgm"),
    )


def _conv_bn_relu6(inputs: int, outputs: int, *, kernel: int = 3) -> list[nn.Module]:
    return [*conv_bn_relu(inputs, outputs, kernel=kernel)[:2], nn.ReLU6(inplace=True)]
