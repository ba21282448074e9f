"""What an attacker who knows the defense compares of two wires: all entries, those that both show, or without noise."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..defenses._law import Law
from ._directions import whitened
from ._held_out import Pairs
from ._seen_through import Seen, seen_through
from .base import Victim

View = Callable[[Tensor], tuple[Tensor, Tensor | None]]
"""Wires (B, ...) -> what is compared of them, (B, m), and which entries of it count, bool (B, m); None: all."""
ROWS = 4096
"""Number of the attacker's images that are compared at once."""
MEASURED = 256
"""Most of these on which noise is measured."""
LEAST = 1e-4
"""Least variance of noise, in units of the wire's variance: entries without noise do not outweigh all others."""


def plain(wire: Tensor) -> tuple[Tensor, None]:
    """Return wires as they are."""
    return wire.flatten(1), None


def views(victim: Victim, seen: Pairs, rng: torch.Generator) -> Iterator[View]:
    """Yield the ways to compare that are worth trying; nothing is drawn where the only one is `plain`.

    Args:
        victim: view of the model.
        seen: the attacker's images with their wires.
        rng: generator of the defense's noise.
    """
    yield plain
    fixed = torch.Generator(victim.device).manual_seed(0)
    rows = torch.arange(min(MEASURED, len(seen)), device=victim.device)
    x = seen.images(rows)
    law = victim.law(wire := victim.query(x, fixed))
    if law.offsets is not None or law.covered is not None:
        if sight := seen_through(victim, seen, rng):
            yield lambda wire: _sighted(sight, wire)
    elif law.visible is not None:
        yield lambda wire: (wire.flatten(1), _visible(victim.law(wire)))
    elif law.reduced is None:
        if law.directions and (numbers := whitened(law.directions, wire, lambda: victim.query(x, fixed))):
            yield lambda wire: (numbers(wire), None)
        again = wire if law.variance is not None else victim.query(x, fixed)
        if (variance := _variance(law, wire, again)) is not None:
            yield lambda wire: (wire.flatten(1) / variance.sqrt(), None)


def _visible(law: Law) -> Tensor | None:
    return None if law.visible is None else law.visible.flatten(1)


def _sighted(sight: Seen, wire: Tensor) -> tuple[Tensor, Tensor | None]:
    found = sight(wire)
    if found.numel() == wire.numel():
        return found.flatten(1), None
    full, there = found.chunk(2, -1 if wire.dim() == 3 else 1)  # as `beside_mask` puts them together
    return full.flatten(1), there.flatten(1) > 0


def _variance(law: Law, wire: Tensor, again: Tensor) -> Tensor | None:
    """Return the variance of the noise on each entry, (m,); None where it is the same on all.

    Args:
        law: of the wires.
        wire: of some images, (B, ...).
        again: other looks at the same images, by which it is measured where the law does not tell it.
    """
    told = law.variance
    told = (wire - again).square().mean(0) / 2 if told is None else torch.as_tensor(told, device=wire.device)
    variance = told.expand(wire.shape[1:]).flatten()
    if len(wire) < 2 or not variance.any() or bool((variance == variance[0]).all()):
        return None
    return variance.clamp(min=max(LEAST * float(wire.var(0).mean()), 1e-20))


def mean_of(view: View, looks: Tensor) -> Tensor:
    """Return the mean of several looks (k, B, ...) as they are compared, (B, m); NaN where none shows an entry."""
    seen = [view(look) for look in looks]
    values = torch.stack([value for value, _ in seen])
    if seen[0][1] is None:
        return values.mean(0)
    there = torch.stack([mask for _, mask in seen if mask is not None])
    return (values * there).sum(0) / torch.where(there.any(0), there.sum(0), torch.nan)


def nearest(query: Tensor, known: Tensor, count: int, there: Tensor | None = None) -> Tensor:
    """Return the indices (B, count) of the nearest rows of ``known`` for each row of ``query``, nearest first.

    ``known`` is gone through in parts, so that the working memory does not grow with N · B.

    Args:
        query: (B, m).
        known: (N, m).
        count: number of neighbors.
        there: entries of ``query`` that count, bool (B, m); None: all.

    >>> nearest(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0], [3.0]]), 2)
    tensor([[1, 0]])
    >>> nearest(torch.tensor([[9.0, 0.0]]), torch.tensor([[0.0, 0.0], [8.0, 9.0]]), 1, torch.tensor([[True, False]]))
    tensor([[1]])
    """
    best = query.new_full((len(query), 0), 0.0)
    where = torch.empty(len(query), 0, dtype=torch.long, device=query.device)
    if there is not None:  # as a product of matrices, which cancels where entries are far from zero
        center = known.nanmean(0).nan_to_num()
        query, known = (query - center) * there, (known - center).nan_to_num()  # what is not known is as usual
    for start in range(0, len(known), ROWS):
        part = known[start : start + ROWS]
        if there is None:
            # Differences and not ‖a‖² − 2ab + ‖b‖²: that cancels where the feature is far from zero.
            distance = torch.cdist(query, part, compute_mode="donot_use_mm_for_euclid_dist")
        else:
            distance = there.to(part.dtype) @ part.square().T - 2 * query @ part.T
        rows = torch.arange(start, start + distance.shape[1], device=query.device).expand_as(distance)
        best, where = torch.cat([best, distance], 1), torch.cat([where, rows], 1)
        best, order = best.topk(min(count, best.shape[1]), largest=False)
        where = where.gather(1, order)
    return where
