"""Entries of a wire that a look hides: at random or by rule, and wires compared in what they show."""

from __future__ import annotations

import torch
from torch import Tensor

from ..victim import Victim

AT_RANDOM = 0.05
"""Least part of the entries hidden in only one of two looks: with less, they are hidden by rule and not at random."""
SHOWN_AGAIN = 0.95
"""Least part of what one look hides that another one shows, beside its part of all entries: 1 if hidden at random."""
HIDDEN_DRAWS = 8
"""Least number of draws of a mask, so that most entries are seen in one."""
COMPLETE = 0.9
"""Part that a union of looks must show of what it would show on average if entries were hidden at random."""


def at_random(visible: Tensor, again: Tensor) -> bool:
    """Return whether the entries that a look hides are hidden at random: another look hides others.

    Where little is hidden at all, or nearly all, two looks differ in few entries. What one hides the other then shows
    as often as anything else, unless it is hidden by rule, as what is small is.

    Args:
        visible: which entries one look shows, bool.
        again: which ones another look at the same images shows, of the same shape.

    >>> shown = torch.rand(2, 500, generator=torch.Generator().manual_seed(0)) > 0.02
    >>> at_random(shown[0], shown[1]), at_random(shown[0], shown[0])
    (True, False)
    """
    differ, hidden = float((visible != again).float().mean()), ~visible
    if differ > AT_RANDOM or not hidden.any():
        return differ > AT_RANDOM
    shown, count = float(again.float().mean()), int(hidden.sum())
    chance = 3 * (shown * (1 - shown) / count) ** 0.5
    return float(again[hidden].float().mean()) > shown - max((1 - SHOWN_AGAIN) * shown, chance)


def nearest(target: Tensor, visible: Tensor | None, wires: Tensor) -> Tensor:
    """Return which wire is the nearest to each target in the entries that it shows, (B,).

    Args:
        target: (B, m).
        visible: entries that it shows, (B, m); None: all.
        wires: (K, m); NaN where nothing is known.

    >>> nearest(torch.tensor([[9.0, 0.0]]), torch.tensor([[True, False]]), torch.tensor([[0.0, 0.0], [8.0, 9.0]]))
    tensor([1])
    """
    if visible is None:
        # By matrix product, torch's choice, an offset that all wires share would drown their distances.
        return torch.cdist(target, wires, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
    center = wires.nanmean(0).nan_to_num()
    wires, target = (wires - center).nan_to_num(), (target - center) * visible  # what is not known is as usual
    return (visible.float() @ wires.square().T - 2 * target @ wires.T).argmin(1)


def complete(counts: Tensor, looks: int) -> bool:
    """Return whether several looks show about as much together as they would if entries were hidden at random.

    Args:
        counts: how many of the looks show each entry.
        looks: their number.

    >>> complete(torch.tensor([3.0, 2.0, 1.0]), 4), complete(torch.tensor([4.0, 4.0, 0.0]), 4)
    (True, False)
    """
    shown, union = float(counts.float().mean()) / looks, float((counts > 0).float().mean())
    return union >= COMPLETE * (1 - (1 - shown) ** looks)


def beside_mask(wire: Tensor, there: Tensor) -> Tensor:
    """Return wires (B, C, ...) with their masks (B, C · ...) as further channels: (B, 2 C, ...)."""
    return torch.cat([wire, there.view_as(wire).to(wire.dtype)], -1 if wire.dim() == 3 else 1)


def told(victim: Victim, wire: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return which entries of each wire (B, ...) were not hidden, (B, m), and which offsets it can have, (B, K).

    None: all.
    """
    law = victim.law(wire)
    masks = [mask.flatten(1) for mask in (law.visible, law.kept) if mask is not None]
    return (torch.stack(masks).all(0) if masks else None), law.possible
