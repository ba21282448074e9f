"""Reasons not to trust an attack on a wire of which entries are hidden at random."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attacks._hidden import at_random, complete
from ..attacks._seen_through import LIMITS, SHOWN
from ..attacks._sight import LOOKS
from ..attacks.base import Attack, Victim
from ..data import Access, Split, to_float
from ..defenses._law import law_of
from ..model import SplitModel

SAMPLE = 16
"""Most images that are sent."""
OFTEN = 0.01
"""Part of what one look shows that must be hidden in another."""
SMALL = 0.1
"""Part of the entries that may be as small as the noise over hidden ones, beside those that are hidden."""


@torch.no_grad()
def of_masks(model: SplitModel, victim: Victim, attack: Attack, images: Split) -> list[str]:
    """Flag an attack that takes zeros of the feature for hidden entries, or that does not tell which ones noise covers.

    Args:
        model: with its defense.
        victim: the attacker's view.
        attack: that was made.
        images: some of them are sent.

    Returns:
        One sentence for each flag; none where all is well.
    """
    x = to_float(images.images[:SAMPLE]).to(model.mean.device)
    rng, z = torch.Generator(x.device).manual_seed(0), model.features(x)
    first = model.protect(z, rng).float()
    law = law_of(model.defense, first)
    if law.visible is None and law.covered is None:
        return []
    looks = [first, *(model.protect(z, rng).float() for _ in range(LOOKS - 1))]
    if law.visible is not None:
        shown = [seen for look in looks if (seen := law_of(model.defense, look).visible) is not None]
        own = Access.WEIGHTS in attack.needs and not complete(torch.stack(shown).sum(0), LOOKS)
        if not own or not at_random(*shown[:2]):
            return []
        return [
            "the attack takes zeros of the feature itself for entries that the defense has hidden, and learns nothing "
            "from them, so that its error is too high; cut before the ReLU, or quote attacks that learn from wires "
            "(linear, decoder, residual)"
        ]
    if law.covered is None or not _can_be_told(looks, law.covered):
        return []
    if attack.sees_through and victim.observed == 1 and _differ_by_size(z, law.covered):
        return []
    return [
        "the attack does not tell which entries the defense has hidden beneath its noise, though their size does: the "
        "wire looks more private than it is; attack one wire of each image with linear, decoder or residual at a cut "
        "whose features are seldom 0, or put the noise before what hides"
    ]


def _can_be_told(looks: list[Tensor], covered: Tensor | float) -> bool:
    """Return whether entries that one look shows clearly are often no more than noise in another."""
    deviation = torch.as_tensor(covered, device=looks[0].device).sqrt()
    sizes = [look.abs() / deviation for look in looks]
    shown = sizes[0] > LIMITS[-1]
    return float(shown.float().mean()) > SHOWN and float((sizes[1] < LIMITS[0])[shown].float().mean()) > OFTEN


def _differ_by_size(z: Tensor, covered: Tensor | float) -> bool:
    """Return whether few entries of the feature are as small as the noise that covers hidden ones."""
    limit = LIMITS[0] * torch.as_tensor(covered, device=z.device).sqrt()
    return float((z.abs() < limit).float().mean()) < SMALL
