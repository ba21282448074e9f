"""The scikit-learn digits: real images that need no download, for demos and tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ranges import Images
from ..registry import plugin
from ._select import chosen, spread
from .base import ImageSet, Split, channel_statistics

TEST_PER_CLASS = 36  # 360 of 1,797 images, a fifth


@plugin("digits")
def digits(
    root: str | Path | None = None,
    *,
    download: bool = False,
    train_size: Images | None = None,
    test_size: Images | None = None,
) -> ImageSet:
    """Load scikit-learn's 1,797 handwritten digits, 8x8 gray upsampled to 32x32x3 (no files needed).

    Split 1,437 / 360; the test images are 36 of each class, evenly spaced, so both parts hold all writers.
    ``root`` and ``download`` have no effect: the images are inside scikit-learn.
    """
    gray, labels = _scanned()
    held_out = spread(labels, [TEST_PER_CLASS] * 10)
    train = _part(gray[~held_out], labels[~held_out], train_size, "train")
    test = _part(gray[held_out], labels[held_out], test_size, "test")
    mean, std = channel_statistics(train.images)
    return ImageSet("digits", train, test, [str(digit) for digit in range(10)], mean, std, 32)


def _part(gray: Tensor, labels: Tensor, size: int | None, part: str) -> Split:
    rows = chosen(labels, size, part)
    return Split(gray[rows].expand(-1, 3, -1, -1).contiguous(), labels[rows])


@cache
def _scanned() -> tuple[Tensor, Tensor]:
    """Return the images (1797, 1, 32, 32) as uint8, and their labels: read and enlarged once, which is slow."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    gray = torch.from_numpy(raw.images).float()[:, None] * (255 / 16)  # type: ignore[attr-defined]
    large = F.interpolate(gray, size=(32, 32), mode="bilinear", align_corners=False)
    return large.round().to(torch.uint8), torch.from_numpy(raw.target).long()  # type: ignore[attr-defined]
