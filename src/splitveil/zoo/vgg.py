"""VGG for small images: the published encoder family, cut by counting entries of the layer list."""

from __future__ import annotations

from torch import nn

from ..ranges import Count, Pixels
from ..registry import plugin
from .base import Bottleneck, Parts, assemble, initialize

LAYERS = {
    "vgg11": "64 M 128 M 256 256 M 512 512 M 512 512 M",
    "vgg13": "64 64 M 128 128 M 256 256 M 512 512 M 512 512 M",
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
}


@plugin(*(name + suffix for name in LAYERS for suffix in ("", "_sgm", "_bn", "_bn_sgm")))
def vgg(
    arch: str, *, cut: int | None, classes: Count, image_size: Pixels, bottleneck: Bottleneck | None = None
) -> Parts:
    """Build a VGG for 32 to 64 pixel images; ``_bn``: batch norm, ``_sgm``: the encoder ends in a sigmoid.

    ``cut`` counts the entries of the layer list that are on the device: of VGG11's
    ``64 M 128 M 256 256 M 512 512 M 512 512 M``, 4 are two convolutions and two poolings.
    The head averages what is left to one pixel, so that larger images fit (of 32 pixels one is left).
    """
    name, *suffixes = arch.split("_")
    blocks = layer_blocks(LAYERS[name], batch_norm="bn" in suffixes)
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(512, 512),
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
        sigmoid="sgm" in suffixes,
    )


def layer_blocks(layers: str, *, batch_norm: bool) -> list[nn.Module]:
    """Return the entries of a layer list, each with its batch norm and ReLU.

    Args:
        layers: widths and ``M`` for poolings.
        batch_norm: add batch norm.
    """
    blocks: list[nn.Module] = []
    inputs = 3
    for entry in layers.split():
        if entry == "M":
            blocks.append(nn.MaxPool2d(2))
            continue
        outputs = int(entry)
        block: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1)]
        block += [nn.BatchNorm2d(outputs)] if batch_norm else []
        blocks.append(nn.Sequential(*block, nn.ReLU(inplace=True)))
        initialize(blocks[-1])
        inputs = outputs
    return blocks
