"""Errors that any attacker reaches in seconds: an attack that is not below them says nothing."""

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
"""Most attacker images that the linear attack learns from, and most entries of the wire times pixels: more is slow."""


def linear_error(victim: Victim, own: Split, attacked: Split, wires: Tensor, seed: int) -> Tensor | None:
    """Return the MSE (N,) of a quick linear attack on the same wires.

    It learns from one look at `MOST_IMAGES` of the attacker's images at most, with a generator of its own.

    Args:
        victim: the attacker's view of the model.
        own: images that the attacker may learn from.
        attacked: images under attack.
        wires: what was seen of them, (N, ...).
        seed: seed of the attack.

    Returns:
        One error per image; None where the attack would take more than seconds, or lacks access.
    """
    weights = wires[0].numel() * attacked.images[0].numel()
    if len(own) < 5 or weights > MOST_WEIGHTS or LinearAttack.needs - victim.grants:
        return None
    attack, few = LinearAttack(looks=1), own.subset(torch.arange(min(len(own), MOST_IMAGES)))
    attack.fit(victim.again(), few, stream(victim.device, seed, HELD_OUT))
    found = torch.cat([attack.reconstruct(part.to(victim.device)).cpu() for part in wires.split(BATCH)])
    return metrics.mse(found, to_float(attacked.images))


def mean_image_error(train: Split, test: Split) -> Tensor:
    """Return the MSE (N,) of answering the mean of ``train`` for each image of ``test``, which needs no wire.

    Args:
        train: images whose mean is answered.
        test: images that are scored.
    """
    total = torch.stack([part.double().sum(0) for part in train.images.split(4096)]).sum(0)
    mean = (total / len(train) / 255).float()
    truth = to_float(test.images)
    return metrics.mse(mean.expand_as(truth), truth)
