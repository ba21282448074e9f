"""The common parts of the zoo's networks: the bottleneck, the cut by counting blocks, the two halves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from ..cutting.layout import Layout
from ..errors import UserError
from ..ranges import Count, checked


@partial(checked, who="bottleneck")
@dataclass(frozen=True)
class Bottleneck:
    """A convolution to ``channels`` on the device and one back in the cloud.

    Args:
        channels: channels C of the wire; fewer or as many as the feature has.
        stride: the device convolution shrinks the feature by this; the cloud half restores its size.
        kernel: odd side of both kernels, in feature pixels.
        relu: a ReLU after each of the two convolutions.
    """

    channels: Count = 8
    stride: Count = 1
    kernel: Count = 3
    relu: bool = False


@dataclass(frozen=True)
class Parts:
    """The two halves of a network: normalized images -> ``encoder`` -> z -> ``tail`` -> logits.

    ``layout`` of the encoder's maps is "channels_first" or "channels_last"; None: found by trying.
    """

    encoder: nn.Module
    tail: nn.Module
    layout: Layout | None = None


def assemble(
    arch: str,
    blocks: Sequence[nn.Module],
    head: nn.Module,
    *,
    cut: int | None,
    image_size: int,
    bottleneck: Bottleneck | None,
    sigmoid: bool = False,
    smallest: int = 8,
    halves: Callable[[Bottleneck, tuple[int, ...]], tuple[nn.Module, nn.Module]] | None = None,
    norm: nn.Module | None = None,
) -> Parts:
    """Put the first ``cut`` blocks on the device and the others, with ``head``, in the cloud.

    Args:
        arch: the network's name, for messages.
        blocks: run one after the other; each maps (B, C, H, W) to (B, C', H', W').
        head: (B, C, H, W) -> logits (B, classes).
        cut: 1 to ``len(blocks)``.
        image_size: side of the square images, in pixels.
        bottleneck: narrows the wire; its device half is the end of the encoder, before the sigmoid.
        sigmoid: end the encoder with a sigmoid, so that z is in (0, 1).
        smallest: image size below which nothing is left for the head.
        halves: builds the bottleneck's halves for the feature's shape; None: `bottleneck_halves`.
        norm: the last layer of the encoder before the sigmoid.

    Raises:
        UserError: ``cut`` is outside its range, the images are too small, or the bottleneck does not fit.
    """
    if cut is None:
        raise UserError(
            f"cut is missing; give cut: in the file or --cut, 1 to {len(blocks)}: the blocks of {arch} on the device"
        )
    if isinstance(cut, bool) or not isinstance(cut, int) or not 1 <= cut <= len(blocks):
        raise UserError(f"cut {cut} does not exist in {arch}; expected a whole number from 1 to {len(blocks)}")
    if image_size < smallest:
        raise UserError(f"images of {image_size} pixels are too small for {arch}; expected at least {smallest}")
    device = OrderedDict[str, nn.Module](blocks=nn.Sequential(*blocks[:cut]))
    cloud = OrderedDict[str, nn.Module]()
    if bottleneck is not None:
        shape = feature_shape(device["blocks"], torch.zeros(1, 3, image_size, image_size))
        device["bottleneck"], cloud["bottleneck"] = (halves or bottleneck_halves)(bottleneck, shape)
    if norm is not None:
        device["norm"] = norm
    if sigmoid:
        device["sigmoid"] = nn.Sigmoid()
    cloud["blocks"] = nn.Sequential(*blocks[cut:])
    cloud["head"] = head
    return Parts(nn.Sequential(device), nn.Sequential(cloud))


def bottleneck_halves(bottleneck: Bottleneck, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    """Return the device half and the cloud half of a bottleneck.

    The cloud half is a convolution, or with a stride a transposed convolution, back to exactly ``shape``.

    Args:
        bottleneck: channels, stride and kernel.
        shape: (C, H, W) of the feature.

    >>> down, up = bottleneck_halves(Bottleneck(channels=8, stride=2), (128, 8, 8))
    >>> z = down(torch.zeros(1, 128, 8, 8)); z.shape, up(z).shape
    (torch.Size([1, 8, 4, 4]), torch.Size([1, 128, 8, 8]))
    """
    check_bottleneck(bottleneck, shape)
    channels, height, width = shape
    size, stride, padding = bottleneck.kernel, bottleneck.stride, bottleneck.kernel // 2
    down: nn.Module = nn.Conv2d(channels, bottleneck.channels, size, stride=stride, padding=padding)
    if stride == 1:
        up: nn.Module = nn.Conv2d(bottleneck.channels, channels, size, padding=padding)
    else:
        # A strided convolution forgets the remainder of the size; the output padding gives it back.
        lost = ((height - 1) % stride, (width - 1) % stride)
        up = nn.ConvTranspose2d(bottleneck.channels, channels, size, stride, padding, output_padding=lost)
    initialize(down)
    initialize(up)
    if bottleneck.relu:
        down, up = nn.Sequential(down, nn.ReLU()), nn.Sequential(up, nn.ReLU())
    return down, up


def feature_shape(encoder: nn.Module, example: Tensor) -> tuple[int, ...]:
    """Return the shape of ``encoder(example)`` without its batch dimension; batch-norm statistics stay untouched.

    Args:
        encoder: run in evaluation mode.
        example: a batch of images.
    """
    modes = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        with torch.no_grad():
            return tuple(encoder(example).shape[1:])
    finally:
        for module, mode in modes.items():
            module.training = mode


def initialize(module: nn.Module) -> None:
    """Initialize every convolution by He's method (normal, fan-out); linear layers keep torch's own weights.

    Draws from torch's default generator, like every torch layer: seed it, or build under ``fork_rng``.

    Args:
        module: initialized in place.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            mode = "fan_in" if isinstance(layer, nn.ConvTranspose2d) else "fan_out"
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def conv_bn_relu(inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Return a convolution without bias (batch norm makes it redundant), batch norm and ReLU.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: odd side of the kernel; the padding keeps the size.
        stride: stride of the convolution.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def check_bottleneck(bottleneck: Bottleneck, shape: tuple[int, ...]) -> None:
    """Check that a bottleneck fits a feature.

    Args:
        bottleneck: channels, stride and kernel.
        shape: (C, H, W) of the feature.

    Raises:
        UserError: it does not.
    """
    if len(shape) != 3:
        raise UserError(f"a bottleneck needs a feature (channels, height, width), got the shape {shape}; leave it out")
    side = min(cast("tuple[int, int]", shape[1:]))
    limits = {"channels": shape[0], "stride": side, "kernel": side}
    for name, limit in limits.items():
        value = getattr(bottleneck, name)
        if value > limit:
            raise UserError(
                f"bottleneck {name} {value} does not fit the feature {'×'.join(map(str, shape))}; "
                f"expected a whole number from 1 to {limit}"
            )
    if bottleneck.kernel % 2 == 0:
        raise UserError(f"bottleneck kernel {bottleneck.kernel} is even; expected an odd one, such as 3")
