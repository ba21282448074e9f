"""The temperature at which a tail's answer is examined: its own, unless it is so sure that nothing could be seen."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data import to_float
from ..model import SplitModel

LOOKED_AT, BATCH = 1000, 250
"""Images on which the entropy of the answers is measured, and how many at once."""
SURE = 0.005
"""Mean entropy in nats below which the answers are softened. The Fisher information of surer ones is that of a few
images, and in float32 that of none: the noise that follows from it protects less, or costs too much at any price."""
SOFT = 0.1
"""Mean entropy in nats that softened answers have at least: that of a network with doubts about some of its images."""
HOTTEST = 2.0**120
"""Highest temperature: a float32 holds no finite answers that would need more."""


@torch.no_grad()
def temperature(model: SplitModel, images: Tensor, rng: torch.Generator) -> float:
    """Return T ≥ 1 by which the tail's answers are divided before their Fisher information is taken.

    The class that a network answers stays the same when its logits are multiplied, while the Fisher information of a
    sure one falls to 0. T is a power of 2, so that dividing rounds nothing and the same information is found at every
    power of 2 by which the logits of a sure network are multiplied.

    Args:
        model: trained, in evaluation mode.
        images: uint8 (N, C, S, S), in random order.
        rng: generator of the noise; it stays as it is.
    """
    device = model.mean.device
    noise = torch.Generator(device).manual_seed(0)
    noise.set_state(rng.get_state())
    parts = images[:LOOKED_AT].split(BATCH)
    answers = torch.cat([model.tail(model.encode(to_float(part.to(device)), noise)).double() for part in parts])
    found = 1.0
    if not entropy(answers) < SURE:  # answers that are not finite are refused where they are used
        return found
    while entropy(answers / found) < SOFT and found < HOTTEST:
        found *= 2
    return found


def entropy(answers: Tensor) -> float:
    """Return the mean entropy of answers in nats.

    Args:
        answers: logits, (N, K).

    >>> round(entropy(torch.zeros(3, 4)), 4)
    1.3863
    """
    chances = answers.softmax(1)
    return float(torch.special.entr(chances).sum(1).mean())
