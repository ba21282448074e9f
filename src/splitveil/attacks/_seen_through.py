"""How an attacker who knows the defense sees a wire of which entries are hidden or to which an offset was added."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..defenses._law import Law
from ..runtime import Runtime
from ._held_out import Pairs
from ._offsets import Unshifted
from ._offsets_learned import unshifted
from ._sight import MOST_HELD_OUT, Sight
from .base import Victim

Seen = Sight | Unshifted
"""Either of the two ways to see."""
LIMITS = (2.0, 3.0, 4.0, 6.0)
"""Multiples of the standard deviation of the noise over hidden entries, above which an entry counts as visible."""
FEWEST = 10
"""Least number of held-out images that can tell whether it helps."""
SHOWN = 0.05
"""Part of the entries that must count as visible, or nothing but the mean image would be answered."""
WORTH = 0.98
"""Part of the error without it that the error with it must reach: a smaller gain may be chance."""
TRIED = 1024
"""Most entries of the wire on which these are tried."""
TRY = 0.1
"""Part of the time that is left for each."""


def seen_through(
    victim: Victim,
    seen: Pairs,
    rng: torch.Generator,
    held_out: Tensor | None = None,
    runtime: Runtime | None = None,
) -> Seen | None:
    """Learn from the attacker's own images what the law of the defense tells; return None where it hides nothing.

    Return `Unshifted` where the law tells of a collection of offsets that can be seen through, else `Sight`. Where
    noise covers the hidden entries, these are told by their size, if that helps on held-out images.

    Args:
        victim: view of the model.
        seen: the attacker's images with their wires.
        rng: generator of the defense's noise.
        held_out: rows of the images that choose between ways to see; None: a fifth of them.
        runtime: of the attack, whose budget may end each part; None: no limit.
    """
    runtime = runtime or Runtime()
    fixed = torch.Generator(victim.device).manual_seed(0)
    wire = seen.wire(torch.zeros(1, dtype=torch.long, device=victim.device), fixed)
    law = victim.law(wire)
    if law.visible is None and law.offsets is None and law.covered is None:
        return None
    if held_out is None:
        held_out = torch.randperm(len(seen), generator=rng, device=rng.device)[: len(seen) // 5]
    if found := unshifted(victim, seen, law, rng, held_out, runtime):
        return found
    if law.visible is None:
        return _uncovered(victim, seen, law, wire, rng, held_out, runtime)
    variance = torch.zeros_like(wire[0]).add(0.0 if law.variance is None else law.variance).flatten()
    return Sight.learn(victim, seen, variance, rng, held_out, runtime=runtime)


def _uncovered(
    victim: Victim, seen: Pairs, law: Law, wire: Tensor, rng: torch.Generator, held_out: Tensor, runtime: Runtime
) -> Sight | None:
    """Return how hidden entries beneath noise are told by their size; None where it is better to take all as they are.

    An entry counts as visible where its absolute value is above a multiple of the noise's standard deviation. The
    multiple is the one with the least error on some of the held-out images and entries, and so is whether there is any.
    """
    if law.covered is None or len(held_out) < FEWEST:
        return None
    variance = torch.zeros_like(wire[0]).add(law.covered).flatten()
    entries = torch.randperm(len(variance), generator=rng, device=rng.device)[:TRIED]
    part, some, rows = _Part(seen, entries), variance[entries], held_out[:MOST_HELD_OUT]
    # All as they are: the linear regression from single looks, whose noise is then a part of the covariance.
    with runtime.share(TRY):
        plain = Sight.learn(victim, part, 0 * some, rng, rows, -torch.ones_like(some), 1, runtime)
    sizes, errors = part.wire(rows, rng).abs() / some.sqrt(), dict.fromkeys(LIMITS, math.inf)
    for limit in (one for one in LIMITS if float((sizes > one).float().mean()) > SHOWN):
        with runtime.share(TRY):
            one = Sight.learn(victim, part, some, rng, rows, limit * some.sqrt(), runtime=runtime)
        if one.covariance is not None:  # else too many entries are small of themselves
            errors[limit] = one.error
    best = min(LIMITS, key=lambda limit: errors[limit])
    if errors[best] > WORTH * plain.error:
        return None
    return Sight.learn(victim, seen, variance, rng, held_out, best * variance.sqrt(), runtime=runtime)


class _Part:
    """Images with some entries of their wires."""

    def __init__(self, seen: Pairs, entries: Tensor):
        self._seen, self._entries = seen, entries
        self.images = seen.images

    def __len__(self) -> int:
        return len(self._seen)

    def wire(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """Return some entries of the wires of the images ``index``, (B, k)."""
        return self._seen.wire(index, rng).flatten(1)[:, self._entries]
