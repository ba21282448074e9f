"""Images as the encoder takes them: their shape is checked, and scaled only when that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import UserError

Images = NDArray[np.uint8]
PRECISION = 22
"""Bits after the point of Pillow's weights."""
ROWS = 256
"""Rows that are scaled at once, so that a photograph does not become eight times as large in memory."""
RESIZES = (None, "bilinear")


def check_resize(resize: str | None) -> None:
    """Refuse a way of scaling that there is not.

    Args:
        resize: None or ``bilinear``.

    Raises:
        UserError: another one.
    """
    if resize not in RESIZES:
        raise UserError(f"resize {resize!r:.40}; expected 'bilinear', or leave it out")


def prepare(images: Images | Sequence[Images], shape: tuple[int, int, int], resize: str | None) -> Images:
    """Return images as uint8 (B, H, W, C), ready for the encoder.

    Args:
        images: uint8 (B, H, W, C), or a list of (H, W, C), whose sizes may differ where they are scaled.
        shape: height, width and channels that the encoder takes.
        resize: ``bilinear`` scales images of another size; None refuses them.

    Raises:
        UserError: another type, number of channels or size.
    """
    wanted = f"uint8 (B, {shape[0]}, {shape[1]}, {shape[2]})"
    if isinstance(images, np.ndarray) and images.ndim != 4:
        hint = "; write images[None] for a single one" if images.ndim == 3 else ""
        raise UserError(f"images of shape {images.shape}; expected {wanted}{hint}")
    for image in images[:1] if isinstance(images, np.ndarray) else images:
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
            got = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
            raise UserError(f"images of {got}; expected {wanted}, gray levels 0 to 255")
    if isinstance(images, np.ndarray) and images.shape[1:] == shape:
        return images
    return np.stack([_one(image, shape, resize, wanted) for image in images]) if len(images) else _none(shape)


def _none(shape: tuple[int, int, int]) -> Images:
    return np.empty((0, *shape), np.uint8)


def _one(image: Images, shape: tuple[int, int, int], resize: str | None, wanted: str) -> Images:
    height, width, channels = shape
    if image.ndim != 3 or image.shape[2] != channels or not image.size:
        raise UserError(f"an image of shape {image.shape}; expected {wanted}, the channels last")
    if image.shape == shape:
        return image
    if resize is None:
        raise UserError(
            f"an image of {image.shape[1]} × {image.shape[0]} pixels; expected {width} × {height}: scale it as the "
            "training images were, or allow it with resize='bilinear' (--resize bilinear)"
        )
    return bilinear(image, height, width)


def bilinear(image: Images, height: int, width: int) -> Images:
    """Return an image scaled as Pillow 13 does by its antialiased ``BILINEAR``, bit for bit, without Pillow.

    SplitVeil scales the images of `folder` and `facescrub` so before it trains on them. Pillow weighs columns and rows
    by a triangle, with weights of 22 bits, and rounds to 8 bits after each, so that their order shows. Up to version 12
    the columns always come first: where the height shrinks by more than twice as many pixels as the width, up to a
    quarter of the values differ by one gray level of 255 from those of such a training.

    Args:
        image: uint8 (H, W, C).
        height: of the result.
        width: of the result.

    >>> bilinear(np.array([[[0], [100]], [[0], [100]]], np.uint8), 1, 2)[..., 0]
    array([[  0, 100]], dtype=uint8)
    """
    shrinks, rest = len(image) - height, image.shape[1] - width
    if shrinks > 0 and shrinks > 2 * rest:
        return _across(_down(image, height), width)
    return _down(_across(image, width), height)


def _across(image: Images, width: int) -> Images:
    """Return an image of another width."""
    if width == image.shape[1]:
        return image
    weights = _weights(image.shape[1], width)
    return np.concatenate([_rounded(weights @ image[i : i + ROWS]) for i in range(0, len(image), ROWS)])


def _down(image: Images, height: int) -> Images:
    """Return an image of another height."""
    if height == len(image):
        return image
    weights, values = _weights(len(image), height), image[0].size
    sums = np.zeros((height, values))
    for i in range(0, len(image), ROWS):
        sums += weights[:, i : i + ROWS] @ image[i : i + ROWS].reshape(-1, values)
    return _rounded(sums).reshape(height, *image.shape[1:])


def _weights(size: int, wanted: int) -> NDArray[np.float64]:
    """Return Pillow's weights (wanted, size) as whole numbers; float64 holds their sums with pixels exactly."""
    scale = size / wanted
    support = max(scale, 1.0)
    center = (np.arange(wanted) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(int), 0)[:, None]
    last = np.minimum((center + support + 0.5).astype(int), size)[:, None]
    place = np.arange(size)
    inside = (place >= first) & (place < last)
    triangle = np.where(inside, np.maximum(1 - np.abs((place - center[:, None] + 0.5) * (1 / support)), 0), 0)
    total = np.cumsum(triangle, axis=1)[:, -1:]  # one after the other, as Pillow adds
    return np.floor(triangle / total * 2**PRECISION + 0.5)


def _rounded(sums: NDArray[np.float64]) -> Images:
    return np.floor((sums + 2 ** (PRECISION - 1)) / 2**PRECISION).clip(0, 255).astype(np.uint8)
