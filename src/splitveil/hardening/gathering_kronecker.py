"""What water-filling must know of a model with a wide wire: factors for channels and places, in two passes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..defenses._waterfilling import without_chance
from ..defenses._waterfilling_kronecker import Products, factor_directions
from ..defenses.base import Defense
from ..errors import UserError
from ..model import SplitModel
from .gathering import BATCH, features, require_usable, slopes
from .regression import LEARNED, TRIED, Sample
from .temperature import temperature

MOST = 65_536
"""Most values of a wire."""
LEAST_IMAGES = 100
"""Fewest images: what a coordinate explains is known to about 1/N."""
SKETCH = 256
"""Random sums of pixels by which the explained variance is measured: of 256, its standard error is 9 %."""


def gather_products(
    model: SplitModel, images: Tensor, rng: torch.Generator, before: Defense | None = None
) -> tuple[Products, Sample]:
    """Return the coordinates of a feature of channels × places and what each is worth, in float64; and some features.

    Args:
        model: trained. It is examined in evaluation mode.
        images: uint8 (N, C, S, S).
        rng: generator of the noise, of the classes that are drawn, and of the sums of pixels.
        before: defenses that stay in front of the noise.

    Raises:
        UserError: a wire of more than `MOST` values, or one that is not channels × places; too few images; or see
            `require_usable`.
    """
    channels, places = shape_of(model)
    # Each factor is a mean over the other axis too, and so needs fewer images than it has values.
    least = max(LEAST_IMAGES, math.ceil(2 * channels / places), math.ceil(2 * places / channels))
    if len(images) < least:
        raise UserError(f"{len(images)} images are too few for a wire of {channels} × {places} values; use {least:,}")
    soft = temperature(model.eval(), images, rng)
    mean, factors = _factors(model, images, rng, before, channels, places, soft)
    for covariance, fisher in factors:
        require_usable(math.inf, covariance, fisher)
    p, q = (factor_directions(covariance, fisher) for covariance, fisher in factors)
    return _measured(model, images, rng, before, mean, p, q, soft)


def shape_of(model: SplitModel) -> tuple[int, int]:
    """Return the channels and places of a wire; of tokens (T, C) the tokens are the places.

    Args:
        model: with its shapes.

    Raises:
        UserError: the wire is too wide, or a vector.
    """
    shape = model.wire_shape
    width = int(torch.Size(shape).numel())
    if width > MOST or len(shape) < 2:
        raise UserError(
            f"the wire has the shape {shape}, {width:,} values; hardening takes vectors of at most 4,096 and maps of "
            f"at most {MOST:,}: cut the network where it is narrower, or give it a bottleneck"
        )
    return shape[0], width // shape[0]


Pair = tuple[Tensor, Tensor]


def _factors(
    model: SplitModel,
    images: Tensor,
    rng: torch.Generator,
    before: Defense | None,
    channels: int,
    places: int,
    soft: float,
) -> tuple[Tensor, tuple[Pair, Pair]]:
    """Return the mean, and covariance and Fisher information of the channels and of the places.

    The factors of a Kronecker product are the mean over the other axis, but for a scale, which `Products` measures.
    """
    double = {"dtype": torch.float64, "device": model.mean.device}
    total = torch.zeros(channels * places, **double)
    sums = [torch.zeros(size, size, **double) for size in (channels, channels, places, places)]
    for part in images.split(BATCH):
        x, z = features(model, part, rng, before)
        z, slope = (value.double().reshape(len(x), channels, places) for value in (z, slopes(model, x, rng, soft)))
        total += z.flatten(1).sum(0)
        sums[0] += torch.einsum("bcs,bds->cd", z, z)
        sums[1] += torch.einsum("bcs,bds->cd", slope, slope)
        sums[2] += torch.einsum("bcs,bct->st", z, z)
        sums[3] += torch.einsum("bcs,bct->st", slope, slope)
    mean = total / len(images)
    maps = mean.view(channels, places)
    by_channel, by_place = maps @ maps.T, maps.T @ maps
    c, f, d, g = (value / len(images) for value in sums)
    return mean.cpu(), (
        ((c - by_channel).cpu() / places, f.cpu() / places),
        ((d - by_place).cpu() / channels, g.cpu() / channels),
    )


def _measured(
    model: SplitModel,
    images: Tensor,
    rng: torch.Generator,
    before: Defense | None,
    mean: Tensor,
    p: Tensor,
    q: Tensor,
    soft: float,
) -> tuple[Products, Sample]:
    """Return the coordinates with the variance, Fisher information and explained variance of each; and a sample."""
    device = model.mean.device
    left, right, center = p.to(device), q.to(device), mean.to(device)
    left_back, right_back = torch.linalg.inv(left), torch.linalg.inv(right)
    shape, pixels = (len(p), len(q)), images[0].numel()
    signs = torch.randint(0, 2, (pixels, SKETCH), generator=rng, device=device, dtype=torch.int8).double() * 2 - 1
    average = torch.zeros(pixels, dtype=torch.float64, device=device)
    square = torch.zeros((), dtype=torch.float64, device=device)
    first, second, fisher = torch.zeros(3, *shape, dtype=torch.float64, device=device)
    cross = torch.zeros(SKETCH, *shape, dtype=torch.float64, device=device)
    some: list[tuple[Tensor, Tensor]] = []
    for part in images.split(BATCH):
        x, z = features(model, part, rng, before)
        found = left @ (z.flatten(1).double() - center).view(len(x), *shape) @ right.T
        # A gradient goes through the inverse of what the feature goes through.
        slope = left_back.T @ slopes(model, x, rng, soft).reshape(len(x), *shape) @ right_back
        flat = x.flatten(1).double()
        sums = flat @ signs
        if BATCH * len(some) < LEARNED + TRIED:
            some.append((found.flatten(1).float(), sums))
        first += found.sum(0)
        second += found.square().sum(0)
        fisher += slope.square().sum(0)
        cross += torch.einsum("bk,bcs->kcs", sums, found)
        average += flat.sum(0)
        square += flat.square().sum()
    count = len(images)
    variance = float(square / count - (average / count).square().sum())
    first = first / count  # not quite 0 where a defense that stays draws anew
    second, cross = (
        second / count - first.square(),
        cross / count - torch.einsum("k,cs->kcs", average @ signs, first / count),
    )
    require_usable(variance, second, fisher)
    v = second.flatten().clamp_min(1e-12)
    explained = cross.square().mean(0).flatten() / v / variance
    products = Products(mean, p, q, v.cpu(), (fisher / count).flatten().cpu(), without_chance(explained, count).cpu())
    coordinates, signed = (torch.cat(parts) for parts in zip(*some, strict=True))
    return products, Sample(coordinates, signed, pixels)
