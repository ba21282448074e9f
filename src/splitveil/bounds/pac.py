"""From nats to the best success rate of any attacker."""

from __future__ import annotations

import math

import torch

from ..ranges import Inner
from ..registry import plugin
from ..statistics.intervals import Interval
from .base import Bound, Channel, Estimate
from .mixture import MixtureBound

GUESS = "Whoever does not see the wire is right with probability {prior:g}."

VACUOUS = "From {:.3g} nats of leakage on it says nothing, and practical noise lets through hundreds."


@plugin("pac")
class PAC(Bound):
    """Bound how often any attacker is right, by the leakage and by how often one is right without the wire.

    With success p₀ before and p after the wire is seen, p ln(p/p₀) + (1 − p) ln((1 − p)/(1 − p₀)) ≤ I(x; z_wire)
    (Xiao and Devadas, "PAC privacy", CRYPTO 2023, theorem 1). The leakage is the upper end of the interval of
    `mixture`. From ln(1/p₀) nats on it says nothing: success 1 is then not excluded.

    Args:
        prior: p₀, such as 0.001 for one photo among 1,000.

    Raises:
        BoundError: the wire's noise is not Gaussian, or there is none.

    >>> round(best_success(0.5, 1 / 8), 5), round(best_success(0.01, 1 / 2), 5)
    (0.74464, 0.22178)
    """

    revision = 2  # a leakage that has no end below 0

    def __init__(self, prior: Inner = 0.001):
        self.prior = prior

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        (leakage,) = MixtureBound().estimate(channel, rng)
        interval = leakage.interval or Interval(leakage.value, leakage.value, leakage.value)
        value = best_success(self.prior, interval.hi)
        about = f"prior success {self.prior:g}, {interval.hi:.4g} nats"
        if value == 1:
            about += f"; more than {math.log(1 / self.prior):.3g} nats, so that it excludes nothing"
        assumptions = (*leakage.assumptions, GUESS.format(prior=self.prior), VACUOUS.format(-math.log(self.prior)))
        return [Estimate(value, "upper", "success", about, assumptions, leakage.images)]


def best_success(prior: float, nats: float) -> float:
    """Return the largest p ≥ ``prior`` with p ln(p/prior) + (1 − p) ln((1 − p)/(1 − prior)) ≤ ``nats``.

    Args:
        prior: probability of success without the wire.
        nats: upper bound on the leakage.
    """
    if nats >= math.log(1 / prior):
        return 1.0
    low, high = prior, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        rest = (1 - middle) * math.log((1 - middle) / (1 - prior)) if middle < 1 else 0.0
        low, high = (middle, high) if middle * math.log(middle / prior) + rest <= nats else (low, middle)
    return low
