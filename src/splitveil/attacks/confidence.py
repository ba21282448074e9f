"""Decoder from the cloud's logits alone (Yang et al. 2019)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from ..data import Access, Split
from ..ranges import Batch, Count, Rate, Weight
from ..registry import plugin
from ..runtime import Runtime
from ..zoo.decoders import Network
from ._held_out import hold_out
from .base import BATCH, Attack, Extent, Observations, Victim
from .decoder import DecoderAttack


@plugin("confidence")
class ConfidenceAttack(Attack):
    """Decoder from the logits that the cloud answers, and from nothing else of the wire.

    A second reader of the service, who sees its answers and can send images of his own. The logits are standardized
    by the attacker's images; training, choice of the epoch and settings are those of the `decoder` attack.

    The defense's law is of no use here: it tells of single entries of the wire, and every logit is a function of all of
    them. The decoder learns from examples what the tail makes of the noise. Where several wires of an image are sent,
    the cloud answers each, and the attacker sees the mean of these answers, never the answer to a combined wire.

    Args:
        epochs: passes over the attacker's images.
        network: decoder network; one that begins fully connected suits a vector.

    >>> ConfidenceAttack().network
    'dense_normN2C64'
    """

    needs: ClassVar = frozenset({Access.QUERY, Access.LOGITS})
    floor: ClassVar = "mean"
    learns: ClassVar = True
    all_looks: ClassVar = True

    def __init__(
        self,
        epochs: Count = 50,
        network: Network = "dense_normN2C64",
        lr: Rate = 1e-3,
        weight_decay: Weight = 1e-4,
        batch_size: Batch = BATCH,
    ):
        self.network = network
        self._decoder = DecoderAttack(epochs, network, lr, weight_decay, batch_size)

    def check(self, wire: tuple[int, ...], size: int) -> None:
        """Accept any wire, as the decoder sees only the logits."""

    def memory(self, extent: Extent) -> dict[str, int]:
        return super().memory(replace(extent, wire=(extent.classes, 1, 1)))

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        held_out, train = hold_out(victim, images, rng, "confidence")
        rows = torch.arange(len(train), device=victim.device)
        logits = torch.cat([answered(victim, train.wire(part, rng)) for part in rows.split(BATCH)])
        self._answers = Answers(victim, logits.mean(0), logits.std(0).clamp(min=1e-6))
        self._decoder.learn(Answered(held_out, self._answers), Answered(train, self._answers), rng, runtime)

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return self._decoder.reconstruct(self._answers(wire))

    def curve(self) -> list[float]:
        return self._decoder.curve()


class Answers:
    """z_wire -> standardized logits, as a feature map (B, classes, 1, 1)."""

    def __init__(self, victim: Victim, mean: Tensor, std: Tensor):
        self._victim, self._mean, self._std = victim, mean, std

    def __call__(self, wire: Tensor) -> Tensor:
        return ((answered(self._victim, wire) - self._mean) / self._std)[:, :, None, None]


class Answered:
    """Observations of which only the cloud's answers are seen."""

    def __init__(self, seen: Observations, answers: Answers):
        self._seen, self._answers, self.images = seen, answers, seen.images

    def __len__(self) -> int:
        return len(self._seen)

    def wire(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """Return standardized logits, with the defense's noise drawn anew."""
        return self._answers(self._seen.wire(index, rng))


def answered(victim: Victim, wire: Tensor) -> Tensor:
    """Return the logits (B, classes) of wires (B, ...), or their means over several wires (B, k, ...) of each image.

    Args:
        victim: view of the model, with its logits.
        wire: (B, ...), or (B, k, ...) where all wires are seen.
    """
    if not victim.all_looks:
        return victim.logits(wire)
    return victim.logits(wire.flatten(0, 1)).view(len(wire), victim.observed, -1).mean(1)
