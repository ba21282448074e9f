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
from .base import BATCH, Attack, Extent, Victim

ROWS = 4096
"""Number of attacker images that are compared at once."""


@plugin("nearest")
class NearestAttack(Attack):
    """Nearest attacker image by Euclidean distance on the wire; with ``neighbors`` > 1, the mean of that many.

    x̂ = x_j, j = argmin_j ‖z_wire − z̄_j‖², where z̄_j is the mean of several looks at the attacker's image j, which
    averages the defense's noise out of what the attacker may repeat (the wire under attack is one look). Its answers
    are real images: its pixel error may be above the mean image's while they show who or what was sent.

    Args:
        neighbors: attacker images whose mean is answered.
        looks: how often each attacker image is sent, each time with fresh noise.

    >>> NearestAttack().neighbors
    1
    """

    floor: ClassVar = "none"

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
        parts = torch.arange(len(images), device=victim.device).split(BATCH)
        rows = []
        for done, index in enumerate(parts, 1):
            rows.append(torch.stack([seen.wire(index, rng).flatten(1) for _ in range(self.looks)]).mean(0))
            if runtime and runtime.progress:
                runtime.progress(done, len(parts), float("nan"))
        self.known, self.pixels = torch.cat(rows), images.images.to(victim.device)

    @torch.no_grad()
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        index = nearest(wire.flatten(1), self.known, self.neighbors)
        return to_float(self.pixels[index.flatten()]).view(*index.shape, *self.pixels.shape[1:]).mean(1)


def nearest(query: Tensor, known: Tensor, count: int) -> Tensor:
    """Return the indices (B, count) of the nearest rows of ``known`` for each row of ``query``, nearest first.

    ``known`` is gone through in parts, so that the working memory does not grow with N · B.

    Args:
        query: (B, m).
        known: (N, m).
        count: number of neighbors.

    >>> nearest(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0], [3.0]]), 2)
    tensor([[1, 0]])
    """
    best = query.new_full((len(query), 0), 0.0)
    where = torch.empty(len(query), 0, dtype=torch.long, device=query.device)
    for start in range(0, len(known), ROWS):
        # Differences and not ‖a‖² − 2ab + ‖b‖²: that cancels where the feature is far from zero.
        distance = torch.cdist(query, known[start : start + ROWS], compute_mode="donot_use_mm_for_euclid_dist")
        rows = torch.arange(start, start + distance.shape[1], device=query.device).expand_as(distance)
        best, where = torch.cat([best, distance], 1), torch.cat([where, rows], 1)
        best, order = best.topk(min(count, best.shape[1]), largest=False)
        where = where.gather(1, order)
    return where
