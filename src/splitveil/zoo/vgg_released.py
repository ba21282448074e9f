"""The VGGs of the published checkpoints, where they differ from `vgg`."""

from __future__ import annotations

from torch import nn

from ..errors import UserError
from ..ranges import Count, Pixels
from ..registry import plugin
from ._released import released_halves
from .base import Bottleneck, Parts, assemble, initialize
from .vgg import LAYERS, layer_blocks

NAMES = tuple(f"{name}{bn}{sgm}" for name in LAYERS for bn in ("", "_bn") for sgm in ("", "_sgm"))


@plugin(*(f"{name}_released{double}" for name in NAMES for double in ("", "_double")))
def vgg_released(
    arch: str, *, cut: int | None, classes: Count, image_size: Pixels, bottleneck: Bottleneck | None = None
) -> Parts:
    """Build a VGG of the published code, for its checkpoints: without ``_sgm`` the encoder ends in a batch norm.

    The head takes all that is left (64 pixels: 2,048 inputs), strides above 2 are chains of stride 2, and with
    ``_double`` the first convolution is 3 → 16 → 64, as PATROL's. ``cut`` counts as in ``vgg``.
    """
    name, *suffixes = arch.split("_")
    if "sgm" not in suffixes and bottleneck is None:
        raise UserError(f"{arch} ends its encoder in a batch norm of the bottleneck's channels; give --bottleneck")
    blocks = layer_blocks(LAYERS[name], batch_norm="bn" in suffixes)
    if "double" in suffixes:
        if cut == 1:
            raise UserError(f"{arch} with cut 1: the published code doubles the first layer from cut 2 on; choose 2")
        blocks[0] = _doubled("bn" in suffixes)
    features = 512 * (image_size // 32) ** 2
    head = nn.Sequential(
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(features, 512),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(512, 512),
        nn.ReLU(inplace=True),
        nn.Linear(512, classes),
    )
    return assemble(
        arch,
        blocks,
        head,
        cut=cut,
        image_size=image_size,
        smallest=32,
        bottleneck=bottleneck,
        halves=released_halves,
        norm=None if "sgm" in suffixes or bottleneck is None else nn.BatchNorm2d(bottleneck.channels),
        sigmoid="sgm" in suffixes,
    )


def _doubled(batch_norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 64)):
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
        layers += [nn.BatchNorm2d(outputs)] if batch_norm else []
        layers.append(nn.ReLU(inplace=True))
    block = nn.Sequential(*layers)
    initialize(block)
    return block
