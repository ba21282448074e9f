"""Noise drawn from a learned collection."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..memory import FLOAT, SGD
from ..randomness import stream
from ..ranges import Count, Weight
from ..registry import plugin
from ._law import Law
from ._model import wire_shape
from .base import Defense, Step
from .laplace import laplace_noise


@plugin("shredder")
class Shredder(Defense):
    """Shredder: adds one of a learned collection of noise tensors, drawn for every image and query.

    z_wire = z + n_k, k ~ uniform{1..K}; the tensors n_k start as Laplace noise of scale b and are trained
    with the network by L_task − λ · mean|n|, which enlarges them as far as the task bears. Mireshghallah et
    al., "Shredder", ASPLOS 2020 (there with a frozen network).

    Weakness: K tensors carry at most ln K nats of randomness. Whoever knows or clusters the collection tries
    all K; an attacker who trains on the wire averages over them. ``noise_variance`` is 0 for that reason.

    Args:
        weight: λ ≥ 0. size: K ≥ 1. scale: b ≥ 0, in units of the feature.

    >>> Shredder(1.0).noise_variance()
    0.0
    """

    def __init__(self, weight: Weight = 1.0, size: Count = 20, scale: Weight = 0.1):
        super().__init__()
        self.weight, self.size, self.scale = float(weight), size, float(scale)

    def install(self, model: Any) -> None:
        shape = (self.size, *wire_shape(model, "shredder"))
        rng = stream("cpu", int(torch.randint(2**62, ())))  # layers' weights come from torch's too
        self.collection = nn.Parameter(self.scale * laplace_noise(torch.empty(shape), rng))

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        chosen = torch.randint(self.size, (z.shape[0],), generator=rng, device=z.device)
        return z.float() + self.collection[chosen]

    def memory(self, batch: int, feature: tuple[int, ...], classes: int) -> dict[str, int]:
        return {"size": SGD * FLOAT * self.size * math.prod(feature)}

    def law(self, wire: Tensor, before: Law) -> Law:
        return before.shifted(self.collection.detach(), wire)

    def loss(self, step: Step) -> Tensor | None:
        return -self.weight * self.collection.abs().mean() if self.weight else None
