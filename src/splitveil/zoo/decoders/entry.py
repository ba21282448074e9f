"""The way into a convolutional decoder for wires that are no maps: tokens and vectors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WIDTH, SIDE = 64, 4
"""Channels and side of the maps that a vector becomes."""


class Tokens(nn.Module):
    """(B, T, C) -> (B, C, G, G), where G x G are the most places that T tokens fill.

    Starts by laying the last G x G tokens out row by row, as vision transformers number their patches after the class
    and register tokens. The mixing of the tokens is learned: an order of another kind is found, and the other tokens
    are heard.
    """

    def __init__(self, tokens: int, channels: int):
        super().__init__()
        side = math.isqrt(tokens)
        self.shape = (channels, side, side)
        self.mix = nn.Linear(tokens, side * side)
        with torch.no_grad():
            self.mix.weight.copy_(torch.eye(tokens)[tokens - side * side :])
            self.mix.bias.zero_()

    def forward(self, z: Tensor) -> Tensor:
        return self.mix(z.transpose(1, 2)).unflatten(2, self.shape[1:])


class Vector(nn.Module):
    """(B, m) -> (B, 64, 4, 4) by a dense layer."""

    def __init__(self, numbers: int):
        super().__init__()
        self.shape = (WIDTH, SIDE, SIDE)
        self.dense = nn.Linear(numbers, math.prod(self.shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.dense(z).unflatten(1, self.shape)


def to_maps(shape: tuple[int, ...]) -> Tokens | Vector:
    """The layer that turns wires of ``shape`` (T, C) or (m,) into maps of its ``shape`` (C, H, W).

    >>> to_maps((17, 192)).shape, to_maps((10,)).shape
    ((192, 4, 4), (64, 4, 4))
    """
    return Tokens(shape[0], shape[1]) if len(shape) == 2 else Vector(shape[0])
