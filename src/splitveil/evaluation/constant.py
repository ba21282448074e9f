"""Parts of a defense that add the same to the wire of every image, at every look, without telling that they do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..defenses._law import Law, law_of
from ..defenses.base import Defense, Stack, name_of
from ..model import SplitModel

FEW = 4
"""Images whose wires are compared."""
ADDED, ALIKE = 0.01, 1e-4
"""Least size of what is added, and most that it may differ between images, in units of how far features differ."""


def constant_parts(model: SplitModel, x: Tensor) -> list[str]:
    """Return the names of the parts that add to each wire what they add to all others, and tell nothing of it.

    Each part is looked at by itself, so that the noise of others does not hide it, and with one image at a time, as it
    is served: a generator that is made anew at each call repeats itself then.

    Args:
        model: with its defense.
        x: pixels (B, C, H, W) in [0, 1].
    """
    stack = list(model.defense) if isinstance(model.defense, Stack) else [model.defense]
    before, found = [model.features(one) for one in x[:FEW].split(1)], list[str]()
    for part in stack:
        if part is None:
            continue
        after = [_sent(part, z, seed) for seed, z in enumerate(before)]
        if not _told(part, after[0]) and _constant(part, before, after):
            found.append(name_of(type(part)) if isinstance(part, Defense) else type(part).__name__)
        before = after
    return found


def _sent(part: Any, z: Tensor, seed: int) -> Tensor:
    return part.on_wire(z, torch.Generator(z.device).manual_seed(seed))


def _told(part: Any, wire: Tensor) -> bool:
    """Return whether a part tells what it adds: the variance of its noise, or offsets of which it adds one."""
    law: Law = law_of(part, wire)
    return law.variance is not None or law.offsets is not None


def _constant(part: Any, before: list[Tensor], after: list[Tensor]) -> bool:
    if any(z.shape != wire.shape for z, wire in zip(before, after, strict=True)):
        return False
    again = [_sent(part, z, len(before) + seed) for seed, z in enumerate(before)]
    first, second = (torch.cat(wires).double() for wires in (after, again))
    z = torch.cat(before).double()
    apart, added = float((z - z[:1]).abs().max()), first - z
    same = torch.equal(first, second) and float((added - added[:1]).abs().max()) <= ALIKE * apart
    return same and float(added.abs().max()) > ADDED * apart > 0
