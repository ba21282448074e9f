"""Numbers on the wire as few bits: a static grid per channel, and its packing into bytes.

The grid is found on noisy features of training images and never depends on the image that is sent: rounding to it
happens after the noise, so it cannot tell more about the image than the wire did. The rate is fixed, so that the length
of a message says nothing either. All arithmetic is that of floats, which every runtime does alike; only the last step
makes bytes.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

Name = Literal["uint8", "uint4", "uint2", "float16", "float32"]
CODECS: tuple[str, ...] = ("auto", *get_args(Name))
BITS = {"uint8": 8, "uint4": 4, "uint2": 2}


class Floats(nn.Module):
    """Numbers as float16 or float32, for looking into a deployment: no grid hides the last bits of the arithmetic."""

    def __init__(self, shape: tuple[int, ...], codec: str):
        super().__init__()
        self.shape, self.codec = tuple(shape), codec
        self.dtype = torch.float16 if codec == "float16" else torch.float32

    def encode(self, sent: Tensor) -> Tensor:
        """Return numbers (B, ...) as (B, n) of the codec's type; what float16 cannot hold becomes its limit."""
        most = torch.finfo(self.dtype).max
        return sent.float().clamp(-most, most).flatten(1).to(self.dtype)

    def decode(self, wire: Tensor) -> Tensor:
        """Return float32 numbers (B, ...) of a wire (B, n)."""
        return wire.float().view(wire.shape[0], *self.shape)

    @property
    def length(self) -> int:
        """Return how many entries the wire of an image has."""
        return _product(self.shape)

    @property
    def bits(self) -> int:
        """Return how many bits an image takes."""
        return self.length * torch.finfo(self.dtype).bits


class Grid(nn.Module):
    """Numbers as steps of a grid, ``low + step · code``, several codes in each byte where they have fewer than 8 bits.

    Args:
        shape: of what is sent for one image.
        bits: of a code: 8, 4 or 2.
        low: smallest value of each channel, (C,).
        step: distance of neighboring values of each channel, (C,), above 0.

    >>> grid = Grid((3,), 4, torch.zeros(3), torch.ones(3))
    >>> grid.encode(torch.tensor([[1.2, 2.0, 99.0]]))
    tensor([[33, 15]], dtype=torch.uint8)
    >>> grid.decode(grid.encode(torch.tensor([[1.2, 2.0, 99.0]])))
    tensor([[ 1.,  2., 15.]])
    """

    low: Tensor
    step: Tensor
    places: Tensor

    def __init__(self, shape: tuple[int, ...], bits: int, low: Tensor, step: Tensor):
        super().__init__()
        self.shape, self.code_bits, self.codec = tuple(shape), bits, f"uint{bits}"
        self.top, self.each = 2**bits - 1, 8 // bits
        self.register_buffer("low", low.float().view(across(shape)))
        self.register_buffer("step", step.float().view(across(shape)))
        self.register_buffer("places", torch.tensor([float(2 ** (bits * i)) for i in range(self.each)]))

    def codes(self, sent: Tensor) -> Tensor:
        """Return the code of each number as float, (B, ...): the nearest value of the grid, ties to the even code."""
        return _codes(sent, self.low, self.step, self.top)

    def encode(self, sent: Tensor) -> Tensor:
        """Return numbers (B, ...) as bytes, uint8 (B, n); the first of a byte's codes has its lowest bits."""
        codes = self.codes(sent).flatten(1)
        missing = -_product(self.shape) % self.each
        if missing:
            codes = nn.functional.pad(codes, (0, missing))
        packed = codes if self.each == 1 else (codes.view(codes.shape[0], self.length, self.each) * self.places).sum(2)
        return packed.to(torch.uint8)

    def unpacked(self, wire: Tensor) -> Tensor:
        """Return the codes of bytes (B, n) as floats, (B, ...)."""
        codes = wire.float()
        if self.each > 1:
            shifted = (codes[:, :, None] / self.places).floor()
            above = (shifted / (self.top + 1)).floor()
            codes = (shifted - (self.top + 1) * above).flatten(1)[:, : _product(self.shape)]
        return codes.view(wire.shape[0], *self.shape)

    def decode(self, wire: Tensor) -> Tensor:
        """Return float32 numbers (B, ...) of bytes (B, n)."""
        return self.low + self.step * self.unpacked(wire)

    @property
    def length(self) -> int:
        """Return how many bytes the wire of an image has."""
        return -(-_product(self.shape) // self.each)

    @property
    def bits(self) -> int:
        """Return how many bits an image takes."""
        return 8 * self.length


Coder = Floats | Grid


def on_grid(sent: Tensor, bits: int, low: Tensor, step: Tensor) -> Tensor:
    """Return what a `Grid` reads of what it wrote, (B, ...) float32, without making bytes of it.

    Args:
        sent: numbers (B, ...).
        bits: of a code.
        low: smallest value of each channel, (C,).
        step: distance of neighboring values of each channel, (C,).

    >>> on_grid(torch.tensor([[1.2, 2.0, 99.0]]), 4, torch.zeros(3), torch.ones(3))
    tensor([[ 1.,  2., 15.]])
    """
    low, step = (value.float().view(across(tuple(sent.shape[1:]))) for value in (low, step))
    return (low + step * _codes(sent, low, step, 2**bits - 1)).contiguous()


def _codes(sent: Tensor, low: Tensor, step: Tensor, top: int) -> Tensor:
    nearest = ((sent.float() - low) / step).round().clamp(0, top)
    return torch.where(nearest.isnan(), 0.0, nearest)  # what a cast makes of NaN differs between runtimes


def across(shape: tuple[int, ...]) -> list[int]:
    """Return the shape in which a number for each channel meets what is sent for one image."""
    return [-1 if axis == channel_axis(shape) else 1 for axis in range(len(shape))]


def channel_axis(shape: tuple[int, ...]) -> int:
    """Return the axis of the channels of what is sent for one image: maps (C, H, W), tokens (T, C), vectors (C,)."""
    return 1 if len(shape) == 2 else 0


def _product(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
