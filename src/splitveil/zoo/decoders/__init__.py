"""The attacker's decoders, from what crosses the wire back to an image."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator
from torch import nn

from ...errors import UserError, WireError, unknown
from ...ranges import Declared, Pixels, checked, value_of
from ...registry import Registry
from .base import ImageShape, shape_of
from .entry import to_maps

__all__ = ["ImageShape", "Network", "build", "shape_of"]

_NAME = re.compile(r"(?P<family>.+)N(?P<blocks>\d+)C(?P<channels>\d+)")


def _known(name: str) -> str:
    _read(name)
    return name


Network = Annotated[str, AfterValidator(_known)]
"""The name of a known decoder."""


@checked
def build(name: str, *, feature_shape: tuple[int, ...], image_size: int | ImageShape) -> nn.Module:
    """Build the decoder ``name``: z (B, ...) -> images (B, C, H, W) in [0, 1].

    Tokens (T, C) and vectors (m,) are turned into maps by a layer in front (`splitveil.zoo.decoders.entry`).

    Args:
        name: ``res_``, ``conv_``, ``unet_`` or ``dense_normNnCc`` (n blocks of c channels), ``custom``
            or ``custom_released``.
        feature_shape: (C, H, W), (T, C) or (m,) of what crosses the wire.
        image_size: (C, H, W) of the images; a number is the side S of color images (3, S, S).

    Raises:
        UserError: an unknown name (with the nearest).
        WireError: a shape that is none of these.

    Example:
        >>> decoder = build("res_normN8C64", feature_shape=(8, 8, 8), image_size=32)
        >>> sum(p.numel() for p in decoder.parameters())
        711539
    """
    shape, image = tuple(feature_shape), _image(image_size)
    if len(shape) not in (1, 2, 3) or min(shape) < 1:
        raise WireError(
            f"decoder {name} cannot turn features {shape} into images {image}; "
            "expected (channels, height, width), (tokens, channels) or (numbers,)"
        )
    key, numbers = _read(name)
    registry = Registry("zoo.decoders")
    entrance = None if len(shape) == 3 or key.startswith("dense_") else to_maps(shape, max(image[1:]))
    if entrance is None:
        return registry.get(key)(feature_shape=shape, image_shape=image, **numbers)
    rest = registry.get(key)(feature_shape=entrance.shape, image_shape=image, **numbers)
    return nn.Sequential(entrance, rest)


def _image(size: int | ImageShape) -> ImageShape:
    channels, height, width = shape_of(size)
    sides = (Declared.of(Pixels).checked("image_size", side) for side in (height, width))  # type: ignore[union-attr]
    return (channels, *sides)  # type: ignore[return-value]


def _read(name: str) -> tuple[str, dict[str, int]]:
    """Return the registered name, and the numbers in ``name``."""
    match, registry = _NAME.fullmatch(name), Registry("zoo.decoders")
    key = f"{match['family']}NnCc" if match else name
    if key not in registry.names():
        raise unknown("decoder", name, registry.names())
    if not match and key.endswith("NnCc"):
        raise UserError(f"decoder {name} is incomplete; expected numbers for n and c, as {name[:-4]}N8C64")
    builder, parts = registry.get(key), match.groupdict() if match else {}
    family = parts.pop("family", "")
    return key, {part: value_of(builder, part, number, f"decoder {family}") for part, number in parts.items()}
