"""What any attacker reaches in seconds: errors that an attack must be below before its own says something."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import metrics
from ..attacks.base import BATCH, Victim
from ..attacks.linear import LinearAttack
from ..data import Split, to_float
from ..randomness import stream
from ..recipe import HELD_OUT

MOST_IMAGES, MOST_WEIGHTS = 2000, 2**27
"""Attacker images from which the linear attack learns, and entries of the wire times pixels beyond which it is slow."""


def linear_error(victim: Victim, own: Split, attacked: Split, wires: Tensor, seed: int) -> Tensor | None:
    """MSE (N,) of a quick linear attack on the same wires; None where it would take more than seconds, or lacks access.

    It learns from one look at `MOST_IMAGES` of the attacker's images at most, by a generator of its own.

    Args:
        own: images that the attacker may learn from.
        attacked: those under attack; wires: what was seen of them, (N, ...).
        seed: of the attack.
    """
    weights = wires[0].numel() * attacked.images[0].numel()
    if len(own) < 5 or weights > MOST_WEIGHTS or LinearAttack.needs - victim.grants:
        return None
    attack, few = LinearAttack(looks=1), own.subset(torch.arange(min(len(own), MOST_IMAGES)))
    attack.fit(victim.again(), few, stream(victim.device, seed, HELD_OUT))
    found = torch.cat([attack.reconstruct(part.to(victim.device)).cpu() for part in wires.split(BATCH)])
    return metrics.mse(found, to_float(attacked.images))


def mean_image_error(train: Split, test: Split) -> Tensor:
    """MSE (N,) of answering the mean of ``train`` for each image of ``test``: what is known without the wire."""
    total = torch.stack([part.double().sum(0) for part in train.images.split(4096)]).sum(0)
    mean = (total / len(train) / 255).float()
    truth = to_float(test.images)
    return metrics.mse(mean.expand_as(truth), truth)
