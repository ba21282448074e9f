"""A wire on which entries are hidden and anybody can tell which, as an attacker sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..runtime import Runtime
from ._gathered import gathered, least
from ._gaussian import means, moments, solved
from ._held_out import Pairs
from ._hidden import beside_mask, complete
from .base import BATCH, Victim

LOOKS = 16
"""Number of looks at each of the attacker's own images, whose union shows nearly all entries."""
MOST_ENTRIES = 8192
"""Width of the wire up to which missing entries are imputed: their covariance has the square of it."""
ROUNDS, EXACT = 16, 100
"""Rounds of conjugate gradients for a decoder's input, which need not be exact, and for an answer."""
RIDGES = (3e-2, 1e-2, 0.1, 1e-3, 0.3, 1.0)
"""Ridges among which one is chosen, in units of the mean variance of the wire, in the order of their trial."""
MOST_HELD_OUT = 256
"""Most images on which the ridge is chosen."""


@dataclass(frozen=True)
class Sight:
    """The Gaussian model of a wire of which some entries are hidden, and of the images behind it.

    Attributes:
        victim: says which entries of a wire are visible.
        mean, pixels: means of the wire where all of it is visible, (m,), and of the images, (d,).
        covariance, cross: covariances of the wire, (m, m), and of wire and images, (m, d); None: entries are hidden by
            rule and not at random, or the wire is too wide.
        variance: variance of the noise on visible entries, 0 or (m,).
        limit: absolute value above which an entry counts as visible, (m,); None: the law tells which are.
        ridge: the one with the least error on held-out images, as few images make a covariance that fits only them.
        error: mean squared error of `images` on the held-out images, before they were learned from too.
    """

    victim: Victim
    mean: Tensor
    pixels: Tensor
    covariance: Tensor | None
    cross: Tensor | None
    variance: Tensor
    limit: Tensor | None = None
    ridge: float = RIDGES[0]
    error: float = math.inf

    @classmethod
    def learn(
        cls,
        victim: Victim,
        seen: Pairs,
        variance: Tensor,
        rng: torch.Generator,
        held_out: Tensor,
        limit: Tensor | None = None,
        looks: int = LOOKS,
        runtime: Runtime | None = None,
    ) -> Sight:
        """Learn from the attacker's own images, each sent several times, as far as the budget allows.

        Args:
            victim: view of the model.
            seen: the attacker's images with their wires.
            variance: of the noise on visible entries, (m,).
            rng: generator of the defense's noise.
            held_out: rows of the images that choose the ridge.
            limit: as the attribute.
            looks: how often each image is sent.
            runtime: of the attack; None: no limit.
        """
        nothing, runtime = torch.zeros(()), runtime or Runtime()
        blind = cls(victim, nothing, nothing, None, None, variance, limit)
        with runtime.share(0.4):
            look = partial(blind._together, seen, rng=rng, looks=looks)
            rows, *found = gathered(runtime, "looks at hidden entries", len(seen), look, rng)
        known, counts = (part.flatten(1) for part in found)
        x = torch.cat([seen.images(part).flatten(1) for part in rows.split(BATCH)])
        if not complete(counts, looks) or known.shape[1] > MOST_ENTRIES:
            return cls(victim, *means(known, counts, x), None, None, variance, limit)
        others = torch.isin(rows, held_out, invert=True)
        with runtime.share(0.3):
            learned = moments(known[others], counts[others], x[others], runtime, rng)
        with runtime.share(0.5):
            wire, truth = seen.wire(held_out, rng), seen.images(held_out).flatten(1)
            ridge, error = cls(victim, *learned, variance, limit)._best_ridge(wire, truth, rng, runtime)
        return cls(victim, *moments(known, counts, x, runtime, rng), variance, limit, ridge, error)

    def _together(self, seen: Pairs, index: Tensor, rng: torch.Generator, looks: int) -> tuple[Tensor, Tensor]:
        """Return the union of several looks at the images ``index``, and how often each entry was seen."""
        total = count = torch.zeros(())
        for _ in range(looks):
            wire = seen.wire(index, rng)
            visible = self.visible(wire).view_as(wire)
            total, count = total + wire * visible, count + visible.to(wire.dtype)
        return total / count.clamp(min=1), count

    def _best_ridge(self, wire: Tensor, x: Tensor, rng: torch.Generator, runtime: Runtime) -> tuple[float, float]:
        """Return the ridge that is best for some of these pairs of wire and image, and its error on all."""
        some = wire[:MOST_HELD_OUT], x[:MOST_HELD_OUT]
        with runtime.share(0.5):
            ridge, _ = least(runtime, "ridges", RIDGES, lambda r: replace(self, ridge=r)._squared_error(*some), rng)
        look = partial(replace(self, ridge=ridge)._errors, wire, x)
        rows, each = gathered(runtime, "held-out answers", len(x), look, rng)
        return ridge, float(each.sum()) / max(1, len(rows))

    def _errors(self, wire: Tensor, x: Tensor, rows: Tensor) -> tuple[Tensor]:
        return ((self.images(wire[rows]).clamp(0, 1) - x[rows]).square().mean(1),)

    def _squared_error(self, wire: Tensor, x: Tensor) -> float:
        return float(self._errors(wire, x, torch.arange(len(x), device=x.device))[0].sum()) / max(1, len(x))

    def visible(self, wire: Tensor) -> Tensor:
        """Return which entries of a wire (B, ...) can be seen: bool (B, m)."""
        if self.limit is not None:
            return wire.flatten(1).abs() > self.limit
        visible = self.victim.law(wire).visible
        return torch.ones_like(wire, dtype=torch.bool).flatten(1) if visible is None else visible.flatten(1)

    def explained(self, wire: Tensor, rounds: int = ROUNDS) -> Tensor:
        """Return u = M (M (C + V + r I) M)⁻¹ M (wire − μ), (B, m), where M keeps the visible entries.

        Beyond their means, C u is the expected wire and C_xz u the expected image; r: `ridge` times the mean variance.
        """
        assert self.covariance is not None
        there = self.visible(wire)
        target = torch.where(there, wire.flatten(1) - self.mean, 0)
        diagonal = self.variance + self.ridge * self.covariance.diagonal().mean()
        return solved(self.covariance, diagonal, there, target, rounds)

    def images(self, wire: Tensor) -> Tensor:
        """Return the expected image (B, d): the MMSE estimate for jointly Gaussian image and wire."""
        assert self.cross is not None
        return self.pixels + self.explained(wire, EXACT) @ self.cross

    def __call__(self, wire: Tensor) -> Tensor:
        """Return the wire (B, C, ...) with its hidden entries imputed, and which are visible: (B, 2 C, ...)."""
        there, full = self.visible(wire), wire.flatten(1)
        if self.covariance is not None:
            full = torch.where(there, full, self.mean + self.explained(wire) @ self.covariance)
        return beside_mask(full.view_as(wire), there)
