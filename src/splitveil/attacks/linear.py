"""Ridge regression from the wire to the pixels: the floor that every attack must beat."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from ..data import Split
from ..errors import UserError
from ..ranges import Looks
from ..registry import plugin
from ..runtime import Runtime
from ._gathered import least
from ._ridge import Ridge, Rows
from ._seen_through import seen_through
from .base import BATCH, Attack, Extent, Victim

RIDGES = range(-6, 5)
"""Powers of ten that are always tried; more where the eigenvalues of the wire lie elsewhere."""
SMALLEST = 10
"""Decades from the largest eigenvalue down to a penalty that no longer counts."""


@plugin("linear")
class LinearAttack(Attack):
    """Linear reconstruction x̂ = A z_wire + b by ridge regression in closed form.

    A = C_xz (C_zz + r I)⁻¹ from the attacker's images; r is chosen among powers of ten, up to the largest eigenvalue of
    C_zz, on a fifth of them, whatever the scale of the wire. The regression is then made from all, in the smaller of
    its two spaces: few images make it fast, however wide the wire.
    For jointly Gaussian x and z_wire this is the MMSE estimator. Where entries are hidden and anybody can tell which,
    the same estimator from the visible entries alone, x̂ = C_xK (C_KK + V + r I)⁻¹ (z_K − μ_K) + μ_x, is taken where it
    is better on the held-out images (see `seen_through`).

    Args:
        looks: how often each image is sent, each time with fresh noise.

    >>> LinearAttack().looks
    4
    """

    floor: ClassVar = "mean"
    sees_through: ClassVar = True

    def __init__(self, looks: Looks = 4):
        self.looks = looks

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        if len(images) < self.fewest():
            raise UserError(f"linear: the attacker has {len(images)} images; expected at least {self.fewest()}")
        runtime, seen = runtime or Runtime(), victim.observe(images)
        order = torch.randperm(len(images), generator=rng, device=rng.device)
        held = len(images) // 5
        held_out, train = order[:held], order[held:]
        z, _ = self._pairs(seen, order[:1], rng)
        self.shape = seen.images(order[:1]).shape[1:]
        rows = len(order) * self.looks
        dual = rows <= z.shape[1]
        with runtime.share(0.3):
            known = self._gather(runtime, "looks", seen, train, rng, Rows(dual))
        with runtime.share(0.5):
            ridge, error = _choose(runtime, Ridge(known), *self._pairs(seen, held_out, rng), rng)
        with runtime.share(0.5):
            known = self._gather(runtime, "looks at the others", seen, held_out, rng, known)
        self.weights, self.constant = (part.float() for part in Ridge(known).weights(ridge))
        sight = seen_through(victim, seen, rng, held_out, runtime)
        self._sight = sight if sight and sight.error < error else None

    def fewest(self) -> int:
        return 5  # a fifth chooses the penalty

    def memory(self, extent: Extent) -> dict[str, int]:
        rows, columns, pixels = extent.images * self.looks, math.prod(extent.wire), math.prod(extent.image)
        small = min(rows, columns)
        # In double precision; eigh holds the matrix, its vectors and twice as much to work in.
        numbers = 5 * small**2 + small * pixels * 2 + columns * pixels
        return {"looks or attacker images": 8 * (numbers + (2 * rows * (columns + pixels) if rows <= columns else 0))}

    def _pairs(self, seen, index: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return seen.wire(index, rng).flatten(1), seen.images(index).flatten(1)

    def _gather(self, runtime: Runtime, name: str, seen, index: Tensor, rng: torch.Generator, rows: Rows) -> Rows:
        parts = index.repeat(self.looks).split(4 * BATCH)
        state = {"parts": rows.parts}
        for i in runtime.loop(name, len(parts), state, rng):
            rows.parts = state["parts"]
            rows.add(*self._pairs(seen, parts[i], rng))
        rows.parts = state["parts"]
        return rows

    @torch.no_grad()
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return self._answer(wire).clamp(0, 1).view(-1, *self.shape)

    def _answer(self, wire: Tensor) -> Tensor:
        if self._sight:
            return self._sight.images(wire)
        return wire.flatten(1) @ self.weights + self.constant


def penalties(largest: float) -> list[float]:
    """Return the penalties to try, those in the middle first, as a budget may end the search.

    Args:
        largest: eigenvalue of the wire's moments.

    >>> penalties(1e4)[:3], max(penalties(1e4)), max(penalties(2e8)), min(penalties(1e-3))
    ([1.0, 0.1, 10.0], 10000.0, 1000000000.0, 1e-13)
    """
    top = math.ceil(math.log10(largest)) if largest > 0 else 0
    powers = range(min(RIDGES.start, top - SMALLEST), max(RIDGES.stop, top + 1))
    middle = 0 if powers == RIDGES else (powers.start + powers.stop - 1) // 2
    return [10.0**power for power in sorted(powers, key=lambda power: abs(power - middle))]


def _choose(runtime: Runtime, fitted: Ridge, z: Tensor, x: Tensor, rng: torch.Generator) -> tuple[float, float]:
    """Return the ridge with the lowest error on the pairs z, x, and that error."""
    projected = fitted.project(z)

    def error(ridge: float) -> float:
        return float((fitted.predict(projected, ridge).clamp(0, 1) - x).square().mean())

    return least(runtime, "ridges", penalties(fitted.largest), error, rng)
