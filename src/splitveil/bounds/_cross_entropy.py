"""I(x; z_wire) ≤ E[log p(z_wire|x) − log q(z_wire)] for any density q that was not made of the same images."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ..statistics.intervals import Interval, student_over_normal
from .base import Channel, Estimate

SIGNIFICANCE = 1.959964
"""Standard errors on each side of a mean that make a 95 % interval."""
ONE_SEEN = "One wire of each image is seen; k wires of it tell at most k times as many nats."
ASSUMPTIONS = (
    "The images are drawn from the population that the answer is about, and the model was not trained on them.",
    "The noise on the wire is Gaussian with the variance that the defense declares, and drawn anew for every query.",
    ONE_SEEN,
)


class Density(Protocol):
    """A density of the wire."""

    def log_density(self, z: Tensor, /) -> Tensor:
        """Return log q of each row of z (N, D), (N,), in nats."""
        ...


def gaps(channel: Channel, part: str, q: Density, rng: torch.Generator) -> Tensor:
    """Return log p(z_wire|x) − log q(z_wire) of one fresh wire of each image of a part, (N,), in nats."""
    law = channel.conditional(part)
    wire = law.draw(rng)
    return law.log_density(wire) - q.log_density(wire)


def upper_bound(channel: Channel, q: Density, about: str, rng: torch.Generator) -> Estimate:
    """Return the mean gap on the held-out images: an unbiased estimate of an upper bound, whatever q is.

    The bound is I(x; z_wire) + KL(p(z_wire) ‖ q), which is 0 or more: value and interval are cut there.
    """
    values = gaps(channel, "held_out", q, rng)
    mean, error = float(values.mean()), float(values.std() / len(values) ** 0.5)
    half = SIGNIFICANCE * student_over_normal(len(values)) * error
    mean, low, high = (max(0.0, value) for value in (mean, mean - half, mean + half))
    interval = Interval(mean, low, high)
    return Estimate(mean, "upper", "leakage", about, ASSUMPTIONS, len(values), interval)
