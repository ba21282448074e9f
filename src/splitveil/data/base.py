"""Loaded data sets: uint8 images and labels in memory (or memory-mapped)."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError

PAGEOUT = 21
"""MADV_PAGEOUT of madvise(2), which Python does not name."""
COLORS = (1, 3)
"""Channels that images may have."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8, (N, C, H, W), pixels 0 to 255; C is 3, or 1 of gray images.
        labels: int64, (N,), indices into the class list of the data set.

    >>> split = Split(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 1, 1]))
    >>> len(split.subset(torch.tensor([0, 2])))
    2
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in COLORS or 0 in images.shape[2:]:
            raise UserError(f"images are {images.dtype} {tuple(images.shape)}; expected torch.uint8 (N, 3 or 1, H, W)")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            got = f"{labels.dtype} {tuple(labels.shape)}"
            raise UserError(f"labels are {got}; expected torch.int64 ({len(images)},)")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return the shape (C, H, W) of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def subset(self, indices: Tensor) -> Split:
        """Return the images at ``indices``, copied, in that order.

        Args:
            indices: int64, (M,).
        """
        return Split(self.images[indices], self.labels[indices])

    def joined(self, other: Split) -> Split:
        """Return these images and then the other's.

        Args:
            other: images of the same shape.
        """
        return Split(torch.cat([self.images, other.images]), torch.cat([self.labels, other.labels]))

    def digest(self) -> str:
        """Return the SHA-256 of the pixels, in hexadecimal: equal for the same images in the same order.

        >>> Split(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0])).digest()[:12]
        '5d89f0568650'
        """
        digest = hashlib.sha256()
        for part in self.images.split(4096):  # memory-mapped images need not be in memory at once
            digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def release(self) -> None:
        """Give back the memory of images that are mapped from a file; they are read again once they are needed.

        What was written to them is kept. Where the system cannot do it, nothing happens.
        """
        pages = getattr(self.images, "mapped_from", None)
        if isinstance(pages, mmap.mmap) and sys.platform == "linux":
            with contextlib.suppress(OSError):  # a kernel before 5.4
                pages.madvise(PAGEOUT)

    def to(self, device: torch.device | str) -> Split:
        """Return the same split on ``device``.

        Args:
            device: where the tensors are to be.
        """
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A data set.

    Attributes:
        name: as passed to ``load``.
        train, test: the two published parts.
        classes: class names; the label is the index.
        mean, std: statistics of the three channels of the training images, pixels in [0, 1].
        size: height and width in pixels.
        example: file of a test image; None where the images are not files of their own.
    """

    name: str
    train: Split
    test: Split
    classes: list[str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    example: Path | None = None


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel over all pixels, scaled to [0, 1].

    They are computed from the histogram, hence exactly, and without a float copy.

    Args:
        images: uint8, (N, C, H, W).

    >>> channel_statistics(torch.full((2, 3, 4, 4), 255, dtype=torch.uint8))[0]
    (1.0, 1.0, 1.0)
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.float64)
    for part in images.split(4096):
        for channel in range(len(counts)):
            counts[channel] += torch.bincount(part[:, channel].flatten().cpu(), minlength=256)
    values = torch.arange(256, dtype=torch.float64) / 255
    share = counts / counts.sum(1, keepdim=True)
    mean = share @ values
    variance = (share * (values - mean[:, None]) ** 2).sum(1)
    # A constant channel must not make the normalization divide by zero.
    std = variance.sqrt().clamp(min=1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())
