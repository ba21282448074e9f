"""The attacker's own image nearest on the wire: catches leakage that a blurred mean hides."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..data import Split, to_float
from ..errors import UserError
from ..ranges import Count, Looks
from ..registry import plugin
from ..runtime import Runtime
from ._compared import View, mean_of, nearest, views
from .base import BATCH, Attack, Extent, Observations, Victim

TUNING = 256
"""Most of the attacker's images on which the way to compare is chosen."""


@plugin("nearest")
class NearestAttack(Attack):
    """Nearest attacker image by Euclidean distance on the wire; with ``neighbors`` > 1, the mean of that many.

    x̂ = x_j, j = argmin_j ‖z_wire − z̄_j‖², where z̄_j is the mean of several looks at the attacker's image j, which
    averages the defense's noise out of what the attacker may repeat (the wire under attack is one look). Its answers
    are real images: its pixel error may be above the mean image's while they show who or what was sent.

    Where the defense hides entries at random, adds one of a known collection of offsets, or adds noise that differs
    between entries, the wires are compared in what they show, without the offset, or in units of the noise, if this
    finds better neighbors for the attacker's own images (see `views`).

    Args:
        neighbors: attacker images whose mean is answered.
        looks: how often each attacker image is sent, each time with fresh noise.

    >>> NearestAttack().neighbors
    1
    """

    floor: ClassVar = "none"
    sees_through: ClassVar = True
    revision: ClassVar = 2  # what is hidden, which offset was added, and where noise is strong are taken into account

    def __init__(self, neighbors: Count = 1, looks: Looks = 8):
        self.neighbors, self.looks = neighbors, looks

    def memory(self, extent: Extent) -> dict[str, int]:
        rows = min(BATCH, extent.images) * self.looks
        pictures = extent.answered * min(self.neighbors, extent.images)
        return {"looks": rows * extent.wire_bytes, "neighbors": pictures * extent.image_bytes}

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        if len(images) < self.neighbors:
            raise UserError(f"nearest: the attacker has {len(images)} images; expected at least {self.neighbors}")
        seen = victim.observe(images)
        self.pixels = images.images.to(victim.device)
        self._view, self.known = self._chosen(seen, list(views(victim, seen, rng)), rng, runtime)

    def _chosen(
        self, seen: Observations, ways: list[View], rng: torch.Generator, runtime: Runtime | None
    ) -> tuple[View, Tensor]:
        """Return the way to compare that is best for the attacker's own images, and these as it sees them."""
        parts = torch.arange(len(seen), device=rng.device).split(BATCH)
        rows: list[list[Tensor]] = [[] for _ in ways]
        for done, index in enumerate(parts, 1):
            looks = torch.stack([seen.wire(index, rng) for _ in range(self.looks)])
            for found, way in zip(rows, ways, strict=True):
                found.append(mean_of(way, looks))
            if runtime and runtime.progress:
                runtime.progress(done, len(parts), float("nan"))
        known = [torch.cat(found) for found in rows]
        best = 0
        if len(ways) > 1 and self.neighbors < len(seen):
            own = torch.randperm(len(seen), generator=rng, device=rng.device)[:TUNING]
            wire = seen.wire(own, rng)
            errors = [self._error(way, of_way, wire, own) for way, of_way in zip(ways, known, strict=True)]
            best = errors.index(min(errors))
        return ways[best], known[best]

    def _error(self, way: View, known: Tensor, wire: Tensor, own: Tensor) -> float:
        """Return the mean squared error of answers to wires of the attacker's own images, each without itself."""
        values, there = way(wire)
        index = nearest(values, known, self.neighbors + 1, there)
        others = index != own[:, None]
        others[others.all(1), -1] = False
        answer = self._answers(index[others].view(len(own), -1))
        return float((answer - to_float(self.pixels[own])).square().mean())

    def _answers(self, index: Tensor) -> Tensor:
        return to_float(self.pixels[index.flatten()]).view(*index.shape, *self.pixels.shape[1:]).mean(1)

    @torch.no_grad()
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        values, there = self._view(wire)
        return self._answers(nearest(values, self.known, self.neighbors, there))
