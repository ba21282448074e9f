"""The ResNet of the published checkpoints: like `resnet`, but its stem is a 5×5 convolution."""

from __future__ import annotations

from ..ranges import Count, Pixels
from ..registry import plugin
from .base import Bottleneck, Parts
from .resnet import residual_network


@plugin("resnet20_stem5", "resnet20_stem5_sgm", "resnet32_stem5", "resnet32_stem5_sgm")
def resnet_stem5(
    arch: str, *, cut: int | None, classes: Count, image_size: Pixels, bottleneck: Bottleneck | None = None
) -> Parts:
    """Build a ResNet of the published code: a 5×5 stem, widths 16/32/64/128; ``_sgm``: the encoder ends in a sigmoid.

    The paper's ResNet-20 is read as that of He et al. with a 3×3 stem (``resnet20``); the published
    checkpoints have a 5×5 one and always the sigmoid. ``cut`` counts [stem, block, ...], as in ``resnet``.
    """
    return residual_network(arch, stem=5, cut=cut, classes=classes, image_size=image_size, bottleneck=bottleneck)
