"""The wires that are attacked: drawn once for a run, a protocol and an image, whatever attack reconstructs them.

Attacks that each draw their own noise cannot be compared image by image, and the lowest of their errors is that of the
luckiest draw: with 12 draws of the same attack it is 3 % too low at σ = 0.025 and 24 % at σ = 0.8.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..attacks.base import BATCH, Victim, seen
from ..data import Split, to_float
from ..randomness import stream
from ..recipe import HELD_OUT, WIRE

MOST_HELD_OUT = 32
"""Attacker images on which finished attacks are compared, at most; never more than a tenth of what there is."""
LOOKS = 8
"""Draws of the defense's noise over which the wire of an answer is averaged."""


@dataclass(frozen=True)
class Interception:
    """What crosses the network for the images under attack.

    Attributes:
        victim: the split model.
        seed: of the run.
        protocol: its name.
    """

    victim: Victim
    seed: int
    protocol: str

    def wires(self, images: Tensor) -> Tensor:
        """z_wire (B, ...) of uint8 images (B, 3, S, S): the same image always has the same noise, in any batch."""
        protocol = int.from_bytes(self.protocol.encode(), "big")
        streams = [stream(self.victim.device, self.seed, WIRE, protocol, key) for key in _keys(images)]
        return self.victim.intercept(to_float(images.to(self.victim.device)), streams)


def _keys(images: Tensor) -> list[int]:
    """A number for each image that follows from its pixels."""
    return [int.from_bytes(hashlib.sha256(image.numpy().tobytes()).digest()[:8], "big") for image in images.cpu()]


def hold_out(images: Split, seed: int) -> tuple[Split, Split]:
    """The attacker's images as a few that judge finished attacks, and the rest, from which all attacks learn.

    Nothing is kept for judging where that would be fewer than two images.

    >>> images = Split(torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.zeros(100, dtype=torch.long))
    >>> [len(part) for part in judged(images, 0)]
    [10, 90]
    """
    count = min(MOST_HELD_OUT, len(images) // 10)
    order = torch.randperm(len(images), generator=stream("cpu", seed, HELD_OUT)).to(images.images.device)
    held = order[: count if count >= 2 else 0]
    return images.subset(held), images.subset(order[len(held) :].sort().values)


@torch.no_grad()
def wire_distance(victim: Victim, found: Tensor, wires: Tensor, rng: torch.Generator) -> Tensor:
    """Σ_d (E f_d(x̂) − z_d)²/(m v_d) of each answer x̂, on the CPU: what an attacker with the encoder sees of its error.

    v_d is the noise's variance of entry d, averaged over the answers; a ten-thousandth of the wire's own variance where
    it is less. For additive noise and the true image it is 1 on average.

    Args:
        found: answers (N, 3, S, S) in [0, 1].
        wires: what was seen, (N, ...): of several wires of each image the one that the law makes of them.
    """
    model, device = victim.white_box(), victim.device
    looks = []
    for part in found.split(BATCH):
        z = model.features(part.to(device))
        looks.append(torch.stack([seen(model, z, rng, victim.observed).flatten(1) for _ in range(LOOKS)]).cpu())
    draws, known = torch.cat(looks, 1), wires.flatten(1).float().cpu()
    variance = draws.var(0).mean(0)
    floor = 1e-4 * known.var(0).mean() if len(known) > 1 else torch.tensor(1e-8)
    return ((draws.mean(0) - known).square() / variance.clamp(min=float(floor) or 1e-12)).mean(1)
