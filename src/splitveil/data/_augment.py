"""Batched augmentation on the device: every image gets its own crop, flip and angle."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_float(images: Tensor) -> Tensor:
    """Return uint8 pixels 0..255 of any shape as float32 in [0, 1].

    Args:
        images: uint8 pixels.

    >>> to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
    [0.0, 1.0]
    """
    return images.float().div_(255)


def augment(
    images: Tensor,
    rng: torch.Generator,
    *,
    crop_padding: int = 0,
    flip: bool = False,
    rotate_degrees: float = 0.0,
    cutout: int = 0,
    mirror: Tensor | None = None,
) -> Tensor:
    """Crop, flip, rotate and hide a square, each at random, in this order, and drawn for each image on its own.

    Args:
        images: uint8, (B, C, H, W).
        rng: the only source of randomness; on the device of ``images``.
        crop_padding: zero pixels added on every side before a window of the old size is cut out.
        flip: mirror left-right with probability 1/2.
        mirror: bool (B,), the images to mirror; without it ``flip`` draws them.
        rotate_degrees: angles are uniform in [-rotate_degrees, rotate_degrees]; bilinear, zeros outside.
        cutout: side in pixels of the square that becomes gray, 0: none. Its center is any pixel, so that a part of it
            may lie outside (DeVries and Taylor, "Improved regularization of convolutional neural networks with
            cutout", 2017, who fill it with the mean color of the training images; here it is 0.5).

    Returns:
        float32, (B, C, H, W), in [0, 1]. Without rotation the pixels are exact copies, but for the square. With
        rotation the first three are one resampling, so what a crop moved out of the window may be turned back into
        it.

    >>> x = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    >>> torch.equal(augment(x, torch.Generator()), to_float(x))
    True
    """
    count, device = len(images), images.device
    shift = torch.zeros(2, count, dtype=torch.int64, device=device)
    if crop_padding:
        shift = torch.randint(-crop_padding, crop_padding + 1, (2, count), generator=rng, device=device)
    if mirror is None:
        mirror = torch.rand(count, generator=rng, device=device) < 0.5 if flip else torch.zeros_like(shift[0]).bool()
    if rotate_degrees:
        degrees = (torch.rand(count, generator=rng, device=device) * 2 - 1) * rotate_degrees
        turned = warp(to_float(images), shift, mirror, degrees)
    else:
        turned = to_float(window(images, shift, mirror, crop_padding))
    return hide(turned, cutout, rng) if cutout else turned


def hide(images: Tensor, side: int, rng: torch.Generator) -> Tensor:
    """Return images with a gray square around a random pixel each.

    Args:
        images: float, (B, C, H, W), in [0, 1].
        side: of the square, in pixels.
        rng: on the device of ``images``.
    """
    count, _, *size = images.shape
    covered = []
    for length in size:
        first = torch.randint(length, (count, 1), generator=rng, device=images.device) - side // 2
        place = torch.arange(length, device=images.device)
        covered.append((place >= first) & (place < first + side))
    rows, columns = covered
    return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], 0.5)


def window(images: Tensor, shift: Tensor, mirror: Tensor, padding: int) -> Tensor:
    """Shift by whole pixels, then flip: out[b, :, y, x] = images[b, :, y + shift[0, b], x' + shift[1, b]], else zero.

    x' = W - 1 - x where ``mirror[b]``, else x. Shapes: images (B, C, H, W), mirror (B,), shift (2, B) in
    [-padding, padding].
    """
    if padding:
        views = F.pad(images, [padding] * 4).unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
        rows, columns = shift + padding
        images = views[torch.arange(len(images), device=images.device), :, rows, columns]
    return torch.where(mirror[:, None, None, None], images.flip(-1), images)


def warp(images: Tensor, shift: Tensor, mirror: Tensor, degrees: Tensor) -> Tensor:
    """Apply `window`, then a counter-clockwise rotation about the center, as one bilinear resampling.

    Shapes: images float (B, C, H, W), shift (2, B), mirror (B,), degrees (B,).
    """
    height, width = images.shape[2:]
    angle = torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    sign = 1 - 2 * mirror.to(cos.dtype)
    down, across = 2 * shift.to(cos.dtype)
    # Maps every output pixel to its source; the y axis points down, hence the signs of sin. Both axes run from -1 to 1,
    # whatever the sides: a turn must know which is longer.
    rows = [sign * cos, -sign * sin * (height / width), across / width, sin * (width / height), cos, down / height]
    theta = torch.stack(rows, 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
