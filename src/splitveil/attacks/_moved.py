"""Images that an attacker makes of its own by moving them, and whether they may be mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, pad

from ..data import to_float

COARSE = 8
"""Largest side of the gray images by which mirrored ones are judged."""
MOST = 4096
"""Most images that are looked at for it."""
FEWEST = 40
"""Images below which their spread is known too badly to judge by."""
RIDGE = 0.01
"""Added to the covariance of the coarse images, in units of their mean variance."""
ALIKE = 1.2
"""Factor on the squared distance of images from the others up to which mirrored ones are taken for such images."""


@dataclass(frozen=True)
class Moves:
    """Shifts and reflections at random; what comes in at a side mirrors what is there.

    Attributes:
        shift: most pixels along each side, fewer than it has.
        flip: mirror left-right with probability 1/2.

    >>> x = torch.arange(4, dtype=torch.uint8).view(1, 1, 1, 4)
    >>> torch.equal(Moves(0, False)(x, torch.Generator()), x)
    True
    """

    shift: int
    flip: bool

    @classmethod
    def of(cls, images: Tensor, shift: float, flip: bool | None) -> Moves:
        """Return the moves for some images.

        Args:
            images: uint8 pixels (N, C, H, W) in random order.
            shift: part of the shorter side.
            flip: as the attribute; None: what `may_be_mirrored` says.
        """
        side = min(images.shape[2:])
        return cls(min(round(shift * side), side - 1), may_be_mirrored(images) if flip is None else flip)

    def __call__(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """Return images (B, C, H, W), each moved on its own.

        Args:
            images: pixels of any dtype.
            rng: generator on their device.
        """
        count, height, width = len(images), *images.shape[2:]
        if self.shift:
            rows, columns = torch.randint(2 * self.shift + 1, (2, count), generator=rng, device=rng.device)
            wide = pad(images.float(), [self.shift] * 4, mode="reflect").to(images.dtype)
            views = wide.unfold(2, height, 1).unfold(3, width, 1)
            images = views[torch.arange(count, device=images.device), :, rows, columns]
        if not self.flip:
            return images
        mirrored = torch.rand(count, generator=rng, device=rng.device) < 0.5
        return torch.where(mirrored[:, None, None, None], images.flip(-1), images)


def may_be_mirrored(images: Tensor) -> bool:
    """Return whether mirrored images could as well be images of the set: so of photos, not of digits or text.

    Half of the images give the mean and the covariance of coarse gray ones. The Mahalanobis distances of the others
    must be much the same when these are mirrored. Of fewer than 40 images the answer is no: there, chance would decide.

    Args:
        images: uint8 pixels (N, C, H, W) in random order.

    >>> ramps = torch.arange(8) * (torch.arange(64) // 2)[:, None]
    >>> may_be_mirrored(ramps.to(torch.uint8).view(64, 1, 1, 8))
    False
    """
    if len(images) < FEWEST:
        return False
    height, width = (min(COARSE, side) for side in images.shape[2:])
    gray = to_float(images[:MOST]).mean(1, keepdim=True)
    some, others = adaptive_avg_pool2d(gray, (height, width)).double().chunk(2)
    mean, flat = some.flatten(1).mean(0), (some - some.mean(0)).flatten(1)
    covariance = flat.T @ flat / len(flat)
    ridge = RIDGE * covariance.diagonal().mean() + 1e-9
    root = torch.linalg.cholesky(covariance + ridge * torch.eye(len(mean)).to(mean))

    def distance(x: Tensor) -> float:
        away = torch.linalg.solve_triangular(root, (x.flatten(1) - mean).T, upper=False)
        return float(away.square().sum(0).mean())

    return distance(others.flip(-1)) <= ALIKE * distance(others)
