"""A bottleneck as a defense: fewer channels on the wire."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from ..errors import UserError
from ..ranges import Count
from ..registry import plugin
from ..zoo.base import Bottleneck as Shape
from ..zoo.base import bottleneck_halves
from ._model import channels_of
from .base import Defense


@plugin("bottleneck")
class Bottleneck(Defense):
    """Bottleneck: a convolution to few channels at the end of the device, one back at the start of the cloud.

    The same layers, at the same place and with the same names, as the setting ``bottleneck`` of a training;
    as a defense it also fits networks that were cut by `SplitModel.cut`. Fewer dimensions mean fewer that can
    leak (the bound of CEM has a term per dimension). It changes the network when it is installed, before the
    other parts, so its place in the stack is without effect. Eshratifar et al., "BottleNet", ISLPED 2019;
    ResSFL, CVPR 2022.

    Args:
        channels: channels of the wire. stride: factor by which the maps shrink. kernel: odd side of the kernels.
        relu: whether a ReLU follows both convolutions.

    >>> Bottleneck(8).channels
    8
    """

    install_order = -2

    def __init__(self, channels: Count = 8, stride: Count = 1, kernel: Count = 3, relu: bool = False):
        super().__init__()
        self.channels, self.stride, self.kernel, self.relu = channels, stride, kernel, relu

    def install(self, model: Any) -> None:
        if any(name.split(".")[-1] == "bottleneck" for name, _ in model.encoder.named_modules()):
            raise UserError("the network has a bottleneck already; give either --bottleneck or --defense bottleneck")
        shape = channels_of(model, "bottleneck")
        down, up = bottleneck_halves(Shape(self.channels, self.stride, self.kernel, self.relu), shape)
        device, cloud = _children(model.encoder, "encoder"), _children(model.tail, "tail")
        last = device.pop("sigmoid", None)
        device["bottleneck"] = down
        if last is not None:
            device["sigmoid"] = last
        model.encoder = nn.Sequential(device)
        model.tail = nn.Sequential(OrderedDict(bottleneck=up, **cloud))
        example = torch.zeros(1, *shape)
        with torch.no_grad():
            model.wire_shape = tuple(down(example).shape[1:])


def _children(part: nn.Module, name: str) -> OrderedDict[str, nn.Module]:
    """Return the named layers of a plain sequence; anything else is one layer."""
    if type(part) is nn.Sequential:
        return OrderedDict(part.named_children())
    return OrderedDict({name: part})
