"""The factor by which the wire of a published network is smaller than the image, for which decoders are built."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from .. import zoo
from ..errors import UserError
from .options import read_bottleneck

SIZES = {"cifar10": 32, "cifar100": 32, "digits": 32, "facescrub": 48, "tinyimagenet": 64}
"""Side of the images of a set in pixels."""
FORMS = {"resnet20": "resnet20_sgm", "resnet32": "resnet32_sgm", "mobilenetv2": "mobilenetv2_released"}


def shrinking(flags: Mapping[str, Any]) -> int | None:
    """Return the image's side over the wire's, rounded down; None where no image set or no such network tells it.

    >>> shrinking({"arch": "vgg11_bn_sgm", "cutlayer": 4, "dataset": "cifar10", "bottleneck_option": "C8S1"})
    4
    """
    size = SIZES.get(flags["dataset"])
    return None if size is None else _shrinking(flags["arch"], flags["cutlayer"], flags["bottleneck_option"], size)


@cache
def _shrinking(arch: str, cut: int, option: str, size: int) -> int | None:
    said = read_bottleneck(option)
    bottleneck = said and zoo.Bottleneck(said.channels, said.stride, said.kernel, said.relu)
    try:
        with torch.device("meta"):
            parts = zoo.build(FORMS.get(arch, arch), cut=cut, classes=10, image_size=size, bottleneck=bottleneck)
            return size // parts.encoder.eval()(torch.zeros(1, 3, size, size)).shape[-1]
    except UserError:  # of a network that cannot be built; the training says so
        return None
