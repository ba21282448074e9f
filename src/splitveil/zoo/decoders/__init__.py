"""The attacker's networks: from a feature on the wire back to an image."""

from __future__ import annotations

import re

from torch import nn

from ...errors import UserError, WireError, unknown
from ...registry import Registry
from .entry import to_maps

__all__ = ["build"]

_NAME = re.compile(r"(?P<family>.+)N(?P<blocks>\d+)C(?P<channels>\d+)")


def build(name: str, *, feature_shape: tuple[int, ...], image_size: int) -> nn.Module:
    """Build the decoder ``name``: z (B, ...) -> images (B, 3, S, S) in [0, 1].

    Tokens (T, C) and vectors (m,) are turned into maps by a layer in front (`splitveil.zoo.decoders.entry`).

    Args:
        name: ``res_``, ``conv_``, ``unet_`` or ``dense_normNnCc`` (n blocks of c channels), ``custom``
            or ``custom_released``.
        feature_shape: (C, H, W), (T, C) or (m,) of what crosses the wire.
        image_size: S, in pixels.

    Raises:
        UserError: an unknown name (with the nearest).
        WireError: a shape that is none of these.

    Example:
        >>> decoder = build("res_normN8C64", feature_shape=(8, 8, 8), image_size=32)
        >>> sum(p.numel() for p in decoder.parameters())
        711539
    """
    shape = tuple(feature_shape)
    if len(shape) not in (1, 2, 3) or min(shape) < 1 or image_size < 1:
        raise WireError(
            f"decoder {name} cannot turn features {shape} into images of {image_size} pixels; "
            "expected (channels, height, width), (tokens, channels) or (numbers,)"
        )
    match = _NAME.fullmatch(name)
    key = f"{match['family']}NnCc" if match else name
    registry = Registry("zoo.decoders")
    if key not in registry.names():
        raise unknown("decoder", name, registry.names())
    numbers = {"blocks": int(match["blocks"]), "channels": int(match["channels"])} if match else {}
    if match and not (numbers["blocks"] <= 256 and 1 <= numbers["channels"] <= 4096):
        raise UserError(f"decoder {name} is out of range; expected N from 0 to 256 and C from 1 to 4096")
    if not match and key.endswith("NnCc"):
        raise UserError(f"decoder {name} is incomplete; expected numbers for n and c, as {name[:-4]}N8C64")
    entrance = None if len(shape) == 3 or key.startswith("dense_") else to_maps(shape, image_size)
    if entrance is None:
        return registry.get(key)(feature_shape=shape, image_size=image_size, **numbers)
    rest = registry.get(key)(feature_shape=entrance.shape, image_size=image_size, **numbers)
    return nn.Sequential(entrance, rest)
