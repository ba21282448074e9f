"""The shapes that a defense may ask of the model that it is installed in."""

from __future__ import annotations

from typing import Any

from ..errors import UserError


def wire_shape(model: Any, who: str) -> tuple[int, ...]:
    """Return the shape of z without its batch dimension."""
    return _shape(model, "wire_shape", who)


def image_shape(model: Any, who: str) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the images."""
    channels, height, width = _shape(model, "image_shape", who)
    return channels, height, width


def channels_of(model: Any, who: str) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of z; refuse features without maps."""
    shape = wire_shape(model, who)
    if len(shape) != 3:
        raise UserError(
            f"{who} needs a feature (channels, height, width), got the shape {shape}; cut the network earlier"
        )
    return shape[0], shape[1], shape[2]


def _shape(model: Any, name: str, who: str) -> tuple[int, ...]:
    if not (shape := getattr(model, name, ())):
        raise UserError(
            f"{who} must know the model's {name}; give the model an example: SplitModel(..., example=x[:1]), or "
            "SplitModel.cut(network, at=..., example=x[:1])"
        )
    return tuple(shape)
