"""The part of the attacker's own images on which a trained attack chooses its epoch."""

from __future__ import annotations

import torch

from ..data import Split
from ..errors import UserError
from .base import Observations, Victim

HELD_OUT = 0.1
"""Part of the attacker's images that chooses the epoch."""


def hold_out_images(images: Split, rng: torch.Generator, name: str) -> tuple[Split, Split]:
    """The attacker's images as a tenth that judges and the rest to learn from.

    Raises:
        UserError: fewer than three images.
    """
    order = torch.randperm(len(images), generator=rng, device=rng.device).to(images.images.device)
    held = max(1, round(HELD_OUT * len(images)))
    if len(images) - held < 2:
        raise UserError(f"{name}: the attacker has {len(images)} images; expected at least 3")
    return images.subset(order[:held]), images.subset(order[held:])


def hold_out(victim: Victim, images: Split, rng: torch.Generator, name: str) -> tuple[Observations, Observations]:
    """The same, as what the wire carries for them."""
    judge, train = hold_out_images(images, rng, name)
    return victim.observe(judge), victim.observe(train)
