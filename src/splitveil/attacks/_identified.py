"""Which offset of a known collection was added to each wire of the attacker's own images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime import Runtime
from ._gathered import gathered
from ._gaussian import Moments, moments
from ._held_out import Pairs
from ._hidden import told
from .base import BATCH, Victim

LOOKS, LOOKS_AT_HIDDEN = 4, 16
"""Looks at each of the attacker's own images, whose differences say which offsets they got: where nothing is hidden,
and where entries are, of which the union should show nearly all."""


@dataclass(frozen=True)
class Identified:
    """The attacker's own images whose offset is known, with the feature that is left without it.

    Attributes:
        rows: which of the images, (M,).
        x: these images, (M, d).
        whole: the wire of a first look without its offset, (M, m).
        union: what several looks show without their offsets, of each entry the first that shows it, (M, m).
        shown: which entries these show, bool (M, m).
        hidden: how many entries a look hides, on average.
        together: part of the entries that two looks at one image show.
        variance: of the noise on an entry in its unit, as the looks differ, as far as no other offsets explain it.
    """

    rows: Tensor
    x: Tensor
    whole: Tensor
    union: Tensor
    shown: Tensor
    hidden: float
    together: float
    variance: float

    @classmethod
    def of(
        cls,
        victim: Victim,
        seen: Pairs,
        offsets: Tensor,
        unit: Tensor,
        hides: bool,
        rng: torch.Generator,
        runtime: Runtime,
    ) -> Identified:
        """Look at all images several times, or at those that the budget allows.

        Args:
            victim: view of the model.
            seen: the attacker's images with their wires.
            offsets: (K, m).
            unit: of `units`, in which entries are compared, (m,).
            hides: whether entries of the wires are hidden, and anybody can tell which.
            rng: generator of the defense's noise.
            runtime: of the attack.
        """
        looks = LOOKS_AT_HIDDEN if hides else LOOKS

        def look(rows: Tensor) -> tuple[Tensor, ...]:
            return _looked_at(victim, seen, rows, offsets, unit, looks, rng)

        found = gathered(runtime, "looks at offsets", len(seen), look, rng)
        rows, known, whole, union, shown, hidden, together, misfit = found
        x = torch.cat([seen.images(index).flatten(1) for index in rows.split(BATCH)])
        variance = float(misfit.sum() / together.sum().clamp(min=1e-12)) / 2
        averages = float(hidden.mean()), float(together.mean()), variance
        whole = whole[known]
        union = union[known] if hides else whole
        return cls(rows[known], x[known], whole, union, shown[known], *averages)

    def moments(self, rows: Tensor, union: bool, runtime: Runtime, rng: torch.Generator) -> Moments:
        """Return the means and covariances of feature and images, as `moments` does.

        Args:
            rows: which of the ``rows``, bool (M,).
            union: of what the looks show together, and not of the whole first look.
            runtime: of the attack.
            rng: generator of the attack.
        """
        z, there = (self.union, self.shown) if union else (self.whole, self.shown.new_ones(()).expand_as(self.shown))
        # In double precision: a covariance from few images has eigenvalues of zero, which rounding makes negative.
        return moments(z[rows], there[rows].double(), self.x[rows].double(), runtime, rng)


def _looked_at(
    victim: Victim, seen: Pairs, index: Tensor, offsets: Tensor, unit: Tensor, looks: int, rng: torch.Generator
) -> tuple[Tensor, ...]:
    """Return of some images whether they are known, ``whole``, ``union``, ``shown`` and what is averaged, (B, ...).

    The difference of two looks is that of two offsets, which tells both unless all looks had the same one. Compared are
    the entries that both show.
    """
    first, *others = (seen.wire(index, rng) for _ in range(looks))
    there, possible = told(victim, first)
    target, pairs = (
        first.flatten(1).double(),
        ((offsets[:, None] - offsets) / unit).flatten(0, 1),
    )  # of this look and another
    every = torch.ones_like(target, dtype=torch.bool)
    there = every if there is None else there
    seen_by, misfits, partners, both = [], [], [], []
    for other in others:
        again, can = told(victim, other)
        again, other = every if again is None else again, other.flatten(1).double()
        common, apart = (there & again).double(), (target - other) / unit
        distances = common @ pairs.square().T - 2 * (common * apart) @ pairs.T
        distances = distances.view(len(index), len(offsets), -1) + (common * apart.square()).sum(1)[:, None, None]
        if can is not None:
            distances = distances.masked_fill(~can[:, None], torch.inf)
        misfit, partner = distances.min(2)
        seen_by.append((other, again))
        misfits.append(misfit)
        partners.append(partner)
        both.append(common.sum(1))
    total = torch.stack(misfits).sum(0)
    if possible is not None:
        total = total.masked_fill(~possible, torch.inf)
    chosen, rows = total.argmin(1), torch.arange(len(index), device=total.device)
    same = torch.stack(
        [(partner[rows, chosen] == chosen) | (count == 0) for partner, count in zip(partners, both, strict=True)]
    ).all(0)
    known = ~same if possible is None else ~same | (possible.sum(1) == 1)
    known = known if len(offsets) > 1 else torch.ones_like(known)
    whole = target - offsets[chosen]
    union, shown = torch.where(there, whole, 0), there
    for (other, again), partner, count in zip(seen_by, partners, both, strict=True):
        if bool(shown.all()):
            break
        new = again & ~shown & (count > 0)[:, None]  # a look that shares no entry with the first tells no offset
        union, shown = torch.where(new, other - offsets[partner[rows, chosen]], union), shown | new
    entries = target.shape[1] * len(others)
    together, misfit = torch.stack(both).sum(0) / entries, total[rows, chosen].clamp(min=0) / entries
    return known, whole, union, shown, (~there).double().sum(1), together, misfit
