"""Top-k sparsification of the wire."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ..ranges import Share
from ..registry import plugin
from ._law import Law
from .base import Defense


@plugin("topk")
class TopK(Defense):
    """Top-k: each image's entries of largest magnitude cross the wire, the others are zero.

    z_wire = z ∘ 1[|z| among its k largest], k = max(1, round(ratio · m)) of m entries; exactly k are kept,
    also where values tie. Gradient sparsification of Aji and Heafield 2017 applied to the feature, the
    published ``topkprune``. Deterministic: which entries are kept is itself information.

    ``scope="released"`` is the published reading: the largest raw values of the whole *batch*. One image's
    wire then depends on the images beside it, so what is attacked is not what is served; for comparison only.

    Args:
        ratio: part that is kept, in (0, 1].
        scope: "sample" or "released".

    >>> TopK(0.5).on_wire(torch.tensor([[1.0, -3.0, 2.0, 0.0]]), torch.Generator())
    tensor([[ 0., -3.,  2.,  0.]])
    """

    def __init__(self, ratio: Share = 0.2, scope: Literal["sample", "released"] = "sample"):
        super().__init__()
        self.ratio, self.scope = float(ratio), scope

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        flat = z.reshape(1, -1) if self.scope == "released" else z.flatten(1)
        rank = flat.detach() if self.scope == "released" else flat.detach().abs()
        count = self._count(flat.shape[1])
        kept = torch.zeros_like(flat).scatter_(1, rank.topk(count, dim=1, sorted=False).indices, 1.0)
        return z * kept.view_as(z)

    def _count(self, entries: int) -> int:
        return max(1, round(self.ratio * entries))

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
        # What is kept of the whole batch tells one image's wire by the images beside it: it has no law of its own.
        batch = self.scope == "released" and self.ratio < 1
        return None if batch else super().gaussian_law(mean, variance)

    def law(self, wire: Tensor, before: Law) -> Law:
        entries = wire.shape[1:].numel()
        if self.ratio == 1 or (self.scope == "sample" and self._count(entries) == entries):
            return before
        law = before.hiding(wire != 0)
        # Noise that made an entry stand out has less spread than all noise that was drawn: it is to be measured.
        return law if replace(before, visible=None).exact else replace(law, variance=None)
