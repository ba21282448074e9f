"""The training that several attacks of a suite share: made once, with the result that each would have had."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..data import Split, to_float
from ..runtime import Runtime, copy_weights
from .base import Victim

if TYPE_CHECKING:
    from .decoder import DecoderAttack

LOOKED_AT = 16
"""Number of images whose wires tell one victim from another."""


@dataclass(frozen=True)
class Made:
    """The result of a training: weights, curve, generator, wires asked for, and the seconds that it took."""

    weights: dict[str, Tensor]
    curve: list[float]
    rng: Tensor
    asked: int
    seconds: float


@dataclass(frozen=True)
class Shared:
    """The training of a decoder, to be shared through `Runtime.fits`.

    Attributes:
        key: digest of all that determines it: settings, images, victim, state of the generator; None: not shared.
        made: the same training, where it has been made.
        asked, seconds: wires asked for, and seconds spent, before the training.
    """

    key: str | None
    made: Made | None
    victim: Victim
    rng: torch.Generator
    runtime: Runtime
    asked: int
    seconds: float

    @classmethod
    def of(cls, attack: DecoderAttack, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime) -> Shared:
        """Look for the training among those made; call this before the generator is used.

        A training that a budget may end is not shared.
        """
        key = None
        if runtime.fits is not None and not (runtime.budget.steps or runtime.budget.seconds):
            key = _digest(attack, victim, images, rng)
        made = runtime.fits.get(key) if key and runtime.fits else None
        return cls(key, made, victim, rng, runtime, victim.tally.asked, runtime.seconds)

    def keep(self, net: nn.Module, curve: list[float]) -> None:
        """Offer a training to other attacks."""
        if self.key and self.runtime.fits is not None:
            asked, seconds = self.victim.tally.asked - self.asked, self.runtime.seconds - self.seconds
            self.runtime.fits[self.key] = Made(copy_weights(net), list(curve), self.rng.get_state(), asked, seconds)

    def take(self, net: nn.Module) -> list[float]:
        """Restore the network and the generator as the training left them, and return its curve."""
        assert self.made
        net.load_state_dict(self.made.weights)
        self.rng.set_state(self.made.rng)
        self.victim.tally.asked = self.asked + self.made.asked
        self.runtime.skip("decoder", self.rng, self.made.seconds)
        return list(self.made.curve)


def _digest(attack: DecoderAttack, victim: Victim, images: Split, rng: torch.Generator) -> str:
    first = to_float(images.images[:LOOKED_AT].to(victim.device))
    wire = victim.query(first, torch.Generator(victim.device).manual_seed(0))
    settings = {key: value for key, value in vars(attack).items() if isinstance(value, str | int | float)}
    text = f"{sorted(settings.items())} {images.digest()} {rng.device}".encode()
    parts = (text, rng.get_state().cpu().numpy().tobytes(), wire.cpu().numpy().tobytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()
