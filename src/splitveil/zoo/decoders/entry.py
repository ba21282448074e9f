"""The way into a convolutional decoder for wires that are no maps: tokens and vectors.

A token stands for a patch of the image, a vector for all of it: many numbers in one place. A convolution to the few
channels of a decoder would throw most of them away there, so they are first spread over as many places as they have
pixels, up to `FINEST` a side.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FINEST = 32
"""Largest side to which numbers are spread; for large images a quarter of theirs, as the published decoder begins."""
CHANNELS, VECTOR_CHANNELS = 16, 8
"""Least channels in each place of a spread wire, of tokens and of vectors."""
LARGEST = 2**26
"""Most weights of a vector's dense layer."""


class Tokens(nn.Module):
    """(B, T, C) -> (B, C', fG, fG), where G x G are the most places that T tokens fill.

    Starts by laying the last G x G tokens out row by row, as vision transformers number their patches after the class
    and register tokens; where more than a fifth of the tokens would be left over, all of them in a square with room for
    them. The mixing of the tokens is learned, which finds any other order and uses the other tokens. A learned linear
    map then spreads each token over f x f places, the inverse of a patch embedding.
    """

    def __init__(self, tokens: int, channels: int, image_size: int):
        super().__init__()
        self.side = math.isqrt(tokens)
        self.side += self.side**2 < 0.8 * tokens
        factor = 2 ** max(0, (_finest(image_size) // self.side).bit_length() - 1)
        width = channels if factor == 1 else max(CHANNELS, math.ceil(channels / factor**2))
        self.shape = (width, factor * self.side, factor * self.side)
        self.mix = nn.Linear(tokens, self.side**2)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(self.side**2, tokens))
            if self.side**2 < tokens:
                self.mix.weight.copy_(torch.eye(tokens)[-(self.side**2) :])
            self.mix.bias.zero_()
        spread = [nn.Conv2d(channels, width * factor**2, 1), nn.PixelShuffle(factor)] if factor > 1 else []
        self.spread = nn.Sequential(*spread)

    def forward(self, z: Tensor) -> Tensor:
        return self.spread(self.mix(z.transpose(1, 2)).unflatten(2, (self.side, self.side)))


class Vector(nn.Module):
    """(B, m) -> (B, 8, G, G) by a dense layer."""

    def __init__(self, numbers: int, image_size: int):
        super().__init__()
        side = min(FINEST, image_size)
        while side > 1 and numbers * VECTOR_CHANNELS * side**2 > LARGEST:
            side //= 2
        self.shape = (VECTOR_CHANNELS, side, side)
        self.dense = nn.Linear(numbers, math.prod(self.shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.dense(z).unflatten(1, self.shape)


def to_maps(shape: tuple[int, ...], image_size: int) -> Tokens | Vector:
    """Return the layer that turns wires of ``shape`` (T, C) or (m,) into maps of its own ``shape`` (C, H, W).

    Args:
        shape: (T, C) or (m,).
        image_size: side of the images in pixels.

    >>> to_maps((17, 192), 32).shape, to_maps((197, 768), 224).shape, to_maps((10,), 32).shape
    ((16, 32, 32), (48, 56, 56), (8, 32, 32))
    """
    return Tokens(shape[0], shape[1], image_size) if len(shape) == 2 else Vector(shape[0], image_size)


def _finest(image_size: int) -> int:
    return max(image_size // 4, min(image_size, FINEST))
