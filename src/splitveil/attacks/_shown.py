"""How a network that learns from wires is shown them: seen through the defense, and on a scale that suits its rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime import Runtime
from ._held_out import Pairs
from ._seen_through import Seen, seen_through
from .base import Victim

LOOKED_AT, PART = 32, 10
"""Images whose wires tell the scale and the offset, at most one in so many: each is one more that is asked for."""
FAR = 30
"""Offset, as a multiple of how far entries spread about their means, above which the means are subtracted."""


@dataclass(frozen=True)
class Shown:
    """A wire as a network is given it: (B, C, ...) -> (B, C', ...), perhaps with masks as further channels.

    Networks learn at rates that fit numbers of about 1. A defense could weaken them by multiplying its wire, or by
    adding to it what is always the same, either of which hides nothing.

    Attributes:
        sight: how the defense is seen through; None: nothing is hidden.
        scale: by which the wire is divided, a power of 100.
        offset: what is subtracted from the wire before, (1, C, ...); None: nothing.
    """

    sight: Seen | None
    scale: float = 1.0
    offset: Tensor | None = None

    @classmethod
    @torch.no_grad()
    def learn(
        cls, victim: Victim, pairs: Pairs, rng: torch.Generator, within: float, runtime: Runtime | None = None
    ) -> Shown:
        """Learn from the attacker's images how their wires are shown.

        Args:
            victim: view of the model.
            pairs: the images with their wires.
            rng: generator of what `seen_through` draws.
            within: a spread from 1/within to within is left as it is.
            runtime: of the attack, whose budget may end what is learned; None: no limit.
        """
        sight = seen_through(victim, pairs, rng, runtime=runtime)
        some = torch.arange(min(LOOKED_AT, max(2, len(pairs) // PART), len(pairs)), device=victim.device)
        wire = pairs.wire(some, torch.Generator(victim.device).manual_seed(0))
        told = (sight(wire) if sight else wire)[:, : wire.shape[1]]
        mean = told.mean(0, keepdim=True)
        spread = float((told - mean).square().mean().sqrt())
        if len(wire) > 1 and float(mean.abs().max()) > FAR * spread > 0:
            return cls(sight, scale_of(spread, within), mean)
        return cls(sight, scale_of(float(wire.std(correction=0)), within))

    def __call__(self, wire: Tensor) -> Tensor:
        """Return what the network is given of a wire (B, C, ...)."""
        seen, channels = self.sight(wire) if self.sight else wire, wire.shape[1]
        if self.offset is None and self.scale == 1:
            return seen
        told = seen[:, :channels] if self.offset is None else seen[:, :channels] - self.offset
        return torch.cat([told / self.scale, seen[:, channels:]], 1)


class ShownPairs:
    """Images with their wires as a network is shown them."""

    def __init__(self, pairs: Pairs, shown: Shown):
        self._pairs, self._shown = pairs, shown
        self.images = pairs.images

    def __len__(self) -> int:
        return len(self._pairs)

    def wire(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """Return the wires of the images ``index`` as they are shown."""
        return self._shown(self._pairs.wire(index, rng))


def scale_of(spread: float, within: float = 10) -> float:
    """Return 1 for a spread from 1/within to within, else the power of 100 that is nearest to it.

    >>> scale_of(0.3), scale_of(3000.0), scale_of(0.02), scale_of(0.02, within=100), scale_of(0.0)
    (1.0, 10000.0, 0.01, 1.0, 1.0)
    """
    ordinary = not 0 < spread < math.inf or 1 / within <= spread <= within
    return 1.0 if ordinary else 100.0 ** round(math.log(spread, 100))
