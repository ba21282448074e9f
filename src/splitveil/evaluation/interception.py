"""The wires that are attacked: drawn once for a run, a protocol and an image, and the same for all attacks.

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
"""Most attacker images on which finished attacks are compared; never more than a tenth of those that there are."""
LOOKS = 8
"""Number of draws of the defense's noise over which the wire of an answer is averaged."""


@dataclass(frozen=True)
class Interception:
    """What crosses the network for the images under attack.

    Attributes:
        victim: the split model.
        seed: seed of the run.
        protocol: name of the protocol.
    """

    victim: Victim
    seed: int
    protocol: str

    def wires(self, images: Tensor) -> Tensor:
        """Return z_wire (B, ...) of images; the same image always has the same noise, in any batch.

        Args:
            images: uint8 (B, C, S, S).
        """
        protocol = int.from_bytes(self.protocol.encode(), "big")
        streams = [stream(self.victim.device, self.seed, WIRE, protocol, key) for key in _keys(images)]
        return self.victim.intercept(to_float(images.to(self.victim.device)), streams)


def _keys(images: Tensor) -> list[int]:
    """Return a number for each image that follows from its pixels."""
    return [int.from_bytes(hashlib.sha256(image.numpy().tobytes()).digest()[:8], "big") for image in images.cpu()]


def hold_out(images: Split, seed: int) -> tuple[Split, Split]:
    """Return a few of the attacker's images on which finished attacks are compared, and the rest, to learn from.

    Nothing is held out where that would be fewer than two images.

    Args:
        images: of the attacker.
        seed: seed of the run; the same images are held out from all attacks.

    >>> images = Split(torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.zeros(100, dtype=torch.long))
    >>> [len(part) for part in hold_out(images, 0)]
    [10, 90]
    """
    count = min(MOST_HELD_OUT, len(images) // 10)
    order = torch.randperm(len(images), generator=stream("cpu", seed, HELD_OUT)).to(images.images.device)
    held = order[: count if count >= 2 else 0]
    return images.subset(held), images.subset(order[len(held) :].sort().values)


@torch.no_grad()
def wire_distance(victim: Victim, found: Tensor, wires: Tensor, rng: torch.Generator) -> Tensor:
    """Return Σ_d (E f_d(x̂) − z_d)²/(m v_d) of each answer x̂: what an attacker with the encoder sees of its own error.

    v_d is the noise's variance of entry d, averaged over the answers; a ten-thousandth of the wire's own variance where
    it is less. E is a mean over `LOOKS` draws, so that for additive noise and the true image it is 1 + 1/`LOOKS` on
    average.

    Args:
        victim: view of the model, with its weights.
        found: answers (N, C, S, S) in [0, 1].
        wires: what was seen, (N, ...): of several wires of each image the one that the law makes of them.
        rng: generator of the defense's noise.

    Returns:
        Distances (N,), on the CPU.
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
