"""The network that learns what to add to another attack's answer, most of it at the resolution of the wire."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, relu

from ..errors import WireError
from ..zoo.decoders import ImageShape

BLOCKS = 4
"""Residual blocks at the resolution of the wire; every finer one has one."""
NARROWEST = 16
"""Least channels at the finer resolutions, each of which has half of those before."""


def require_doubled(wire: tuple[int, ...], sides: tuple[int, ...]) -> None:
    """Refuse wires that are no maps, or whose sides times one power of two are not those of the images.

    Args:
        wire: shape of the wire.
        sides: of the images, (H, W), or only the shorter, (S,).

    Raises:
        WireError: the wire is one of those.

    >>> require_doubled((8, 8, 8), (32,)), require_doubled((8, 3, 5), (12, 20))
    (None, None)
    """
    known = wire[1:] if len(sides) == 2 else (min(wire[1:], default=1),)
    factor = sides[0] // known[0] if len(wire) == 3 else 0
    if factor.bit_count() != 1 or sides != tuple(factor * side for side in known):
        raise WireError(
            f"residual: the wire is {wire} for images of {'×'.join(map(str, sides))} pixels; expected a feature map "
            "(C, H, W) whose sides times a power of two are those of the images"
        )


class Block(nn.Module):
    """Residual block without a norm that begins as the identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(relu(self.first(relu(x))))


class Finer(nn.Module):
    """Features at twice the resolution, with those of the answer itself: (B, c, h, w) -> (B, c', 2h, 2w)."""

    def __init__(self, before: int, channels: int, answer: int):
        super().__init__()
        self.up = nn.Conv2d(before, 4 * channels, 3, padding=1)
        self.side = nn.Conv2d(answer, channels, 3, padding=1)
        self.block = Block(channels)

    def forward(self, x: Tensor, answer: Tensor) -> Tensor:
        return self.block(pixel_shuffle(self.up(relu(x)), 2) + self.side(answer))


class Correction(nn.Module):
    """An answer with its correction; it begins as the answer.

    The pixels of the answer that lie under one entry of the wire are channels beside it (see `beside`). The last
    doubling is that of the pixels: nothing is computed at their resolution.

    Args:
        wire: shape (D, h, w) of what is told of the wire.
        image: shape (C, H, W) of an image, whose sides are those of the wire times a power of two (`require_doubled`).
        channels: at the resolution of the wire.

    >>> Correction((8, 2, 2), (3, 8, 8), 16)(torch.zeros(1, 56, 2, 2)).shape
    torch.Size([1, 3, 8, 8])
    """

    def __init__(self, wire: tuple[int, ...], image: ImageShape, channels: int):
        super().__init__()
        self.factor, self.colors = image[1] // wire[1], image[0]
        self.last_factor = min(2, self.factor)
        widths = [channels]
        self.finer = nn.ModuleList()
        for doubled in range(1, self.factor.bit_length() - 1):
            widths.append(max(widths[-1] // 2, min(NARROWEST, channels)))
            self.finer.append(Finer(widths[-2], widths[-1], self.colors * (self.factor >> doubled) ** 2))
        self.first = nn.Conv2d(self.colors * self.factor**2 + wire[0], channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(BLOCKS)))
        self.last = nn.Conv2d(widths[-1], self.colors * self.last_factor**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, seen: Tensor) -> Tensor:
        answer = pixel_shuffle(seen[:, : self.colors * self.factor**2], self.factor)
        x, factor = self.blocks(self.first(seen)), self.factor
        for finer in self.finer:
            factor //= 2
            x = finer(x, pixel_unshuffle(answer, factor))
        return answer + pixel_shuffle(self.last(relu(x)), self.last_factor).to(answer.dtype)

    def inner(self) -> list[nn.Parameter]:
        """Return the convolutions within the network: all but the last."""
        return [weight for name, weight in self.named_parameters() if weight.dim() == 4 and name != "last.weight"]


def beside(answer: Tensor, wire: Tensor) -> Tensor:
    """Return what a `Correction` takes: folded answers (B, C, H, W) with the wires (B, D, h, w) beside them.

    Args:
        answer: of another attack.
        wire: what it answered.

    >>> beside(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 2, 2)).shape
    torch.Size([1, 56, 2, 2])
    """
    folded = pixel_unshuffle(answer, answer.shape[2] // wire.shape[2])
    return torch.cat([folded, wire], 1).to(memory_format=torch.channels_last)
