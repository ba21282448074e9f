"""The bottleneck of the published networks, where it differs from `bottleneck_halves`."""

from __future__ import annotations

import math

from torch import nn

from ..errors import UserError
from .base import Bottleneck, check_bottleneck, initialize


def released_halves(
    bottleneck: Bottleneck, shape: tuple[int, ...], back_kernel: int | None = None
) -> tuple[nn.Module, nn.Module]:
    """Return the halves of the published bottleneck: a stride is a chain of 3×3 convolutions of stride 2.

    Of stride s there are 1 + ⌊log₂ ⌊s/2⌋⌋ of them, with as many transposed ones in the cloud; stride 3 is stride 2.

    Args:
        bottleneck: channels, stride and kernel.
        shape: (C, H, W) of the feature.
        back_kernel: side of the cloud's kernel at stride 1; None: as on the device.

    >>> down, up = released_halves(Bottleneck(channels=8, stride=4), (128, 8, 8))
    >>> len(down), len(up), down[-1].out_channels, up[-1].out_channels
    (2, 2, 8, 128)
    """
    check_bottleneck(bottleneck, shape)
    width, wire, kernel = shape[0], bottleneck.channels, bottleneck.kernel
    if bottleneck.stride == 1:
        back = back_kernel or kernel
        down: list[nn.Module] = [nn.Conv2d(width, wire, kernel, padding=kernel // 2)]
        up: list[nn.Module] = [nn.Conv2d(wire, width, back, padding=back // 2)]
    else:
        steps = 1 + int(math.log2(bottleneck.stride // 2))
        if kernel != 3 or any(side % 2**steps for side in shape[1:]):
            raise UserError(
                f"bottleneck kernel {kernel}, stride {bottleneck.stride} on a feature {'×'.join(map(str, shape))}: the "
                f"published chain needs kernel 3 and sides that {2**steps} divides; choose another stride or cut"
            )
        down, up = [], []
        for step in range(steps):
            first, last = step == 0, step == steps - 1
            down.append(nn.Conv2d(width if first else wire, wire, 3, stride=2, padding=1))
            up.append(nn.ConvTranspose2d(wire, width if last else wire, 3, stride=2, padding=1, output_padding=1))
    if bottleneck.relu:
        down, up = ([part for layer in half for part in (layer, nn.ReLU())] for half in (down, up))
    halves = nn.Sequential(*down), nn.Sequential(*up)
    for half in halves:
        initialize(half)
    return halves
