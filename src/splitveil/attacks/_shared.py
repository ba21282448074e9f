"""A training that several attacks of a suite have in common is made once, with the result that each would have had."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..data import Split, to_float
from ..runtime import Work, copy_weights
from .base import Victim

if TYPE_CHECKING:
    from .decoder import DecoderAttack

LOOKED_AT = 16
"""Images whose wires tell one victim from another."""


@dataclass(frozen=True)
class Made:
    """What a training left: weights, curve, generator, looks at the attacker's images, and the seconds that it took."""

    weights: dict[str, Tensor]
    curve: list[float]
    rng: Tensor
    asked: int
    seconds: float


@dataclass(frozen=True)
class Shared:
    """The training of a decoder, as `Work.fits` knows it.

    Attributes:
        key: digest of all that determines it: settings, images, victim, state of the generator; None: not shared.
        made: the same training, where it has been made.
        asked, seconds: when this began.
    """

    key: str | None
    made: Made | None
    victim: Victim
    rng: torch.Generator
    work: Work
    asked: int
    seconds: float

    @classmethod
    def of(cls, attack: DecoderAttack, victim: Victim, images: Split, rng: torch.Generator, work: Work) -> Shared:
        """Before the generator is used. What a budget may end is not shared."""
        key = None
        if work.fits is not None and not (work.budget.steps or work.budget.seconds):
            key = _digest(attack, victim, images, rng)
        made = work.fits.get(key) if key and work.fits else None
        return cls(key, made, victim, rng, work, victim.tally.asked, work.seconds)

    def keep(self, net: nn.Module, curve: list[float]) -> None:
        """Leave a training to those who need the same."""
        if self.key and self.work.fits is not None:
            asked, seconds = self.victim.tally.asked - self.asked, self.work.seconds - self.seconds
            self.work.fits[self.key] = Made(copy_weights(net), list(curve), self.rng.get_state(), asked, seconds)

    def take(self, net: nn.Module) -> list[float]:
        """Give the network and the generator what the training left them; returns its curve."""
        assert self.made
        net.load_state_dict(self.made.weights)
        self.rng.set_state(self.made.rng)
        self.victim.tally.asked = self.asked + self.made.asked
        self.work.skip("decoder", self.rng, self.made.seconds)
        return list(self.made.curve)


def _digest(attack: DecoderAttack, victim: Victim, images: Split, rng: torch.Generator) -> str:
    first = to_float(images.images[:LOOKED_AT].to(victim.device))
    wire = victim.query(first, torch.Generator(victim.device).manual_seed(0))
    settings = {key: value for key, value in vars(attack).items() if isinstance(value, str | int | float)}
    text = f"{sorted(settings.items())} {images.digest()} {rng.device}".encode()
    parts = (text, rng.get_state().cpu().numpy().tobytes(), wire.cpu().numpy().tobytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()
