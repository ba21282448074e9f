"""The ε of local differential privacy that a defense promises."""

from __future__ import annotations

import math

import torch

from ..defenses.local_dp import LocalDP, gaussian_delta
from ..ranges import Looks
from ..registry import plugin
from .base import Bound, BoundError, Channel, Estimate

SENT = "It is about the image that is sent; it says nothing of the images that the network was trained on."
FRESH = "The noise is drawn anew for every query, and its rounding to floating-point numbers is not exploited."
PURE = "Queries and entries compose by adding up, which is exact for the clipped range of Laplace noise."
MECHANISM = "δ is {delta:g} for all queries together; k of them are one with a k-th of the noise's variance."
CERTAIN = 0.999
"""Probability that an attacker tells two images apart from which on ε is said to exclude nothing."""


@plugin("dp")
class DP(Bound):
    """State the ε of `local_dp` for one entry of the wire and for the whole wire of an image, over several queries.

    P(observed ∈ S | x) ≤ e^ε P(observed ∈ S | x') + δ for any two images x, x'. Laplace noise: ε adds up over entries
    and queries (basic composition, Dwork et al. 2006). Gaussian noise of deviation σ on a feature of sensitivity Δ: k
    queries are one with σ/√k, and ε solves Φ(Δ/2σ − εσ/Δ) − e^ε Φ(−Δ/2σ − εσ/Δ) = δ (Balle and Wang, ICML 2018), which
    is exact. Who is to tell which of two images was sent is right with probability at most (e^ε + δ)/(1 + e^ε).

    Args:
        observed: queries with the same image.

    Raises:
        BoundError: the defense is not `local_dp`.

    >>> composed_gaussian(1 / 3.7306, 1, 1e-5) - 1 < 1e-3
    True
    """

    def __init__(self, observed: Looks = 1):
        self.observed = observed

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        defense: torch.nn.Module | None = channel.model.defense
        parts = [] if defense is None else [part for part in defense.modules() if isinstance(part, LocalDP)]
        if not parts:
            raise BoundError(
                "the defense promises no differential privacy, as nothing bounds how far two features lie apart; "
                "local_dp clips them and does"
            )
        (part,) = parts
        entry, image = epsilons(part, channel.dimension, self.observed)
        delta = 0.0 if part.mechanism == "laplace" else part.delta
        composed = PURE if part.mechanism == "laplace" else MECHANISM.format(delta=delta)
        queries = "one query" if self.observed == 1 else f"{self.observed} queries"
        told = (SENT, FRESH, composed)
        return [
            Estimate(epsilon, "upper", "epsilon", f"{what}, {queries}; {_in_words(epsilon, delta)}", told)
            for what, epsilon in (("one entry of the wire", entry), ("the whole wire of an image", image))
        ]


def epsilons(defense: LocalDP, dimensions: int, queries: int) -> tuple[float, float]:
    """Return the ε of one entry of the wire and of the whole wire.

    Args:
        defense: with its noise and clipping.
        dimensions: number of values on the wire, m.
        queries: k, all with the same image.

    >>> epsilons(LocalDP(2.0), dimensions=512, queries=3)
    (6.0, 3072.0)
    """
    scale, width = defense.noise_scale(dimensions), defense.high - defense.low
    power = 1.0 if defense.mechanism == "laplace" else 0.5
    one, all_ = (width, width * dimensions**power) if defense.norm is None else (2 * defense.norm,) * 2
    if defense.mechanism == "laplace":
        return queries * one / scale, queries * all_ / scale
    return tuple(composed_gaussian(shift / scale, queries, defense.delta) for shift in (one, all_))  # type: ignore


def composed_gaussian(shift: float, queries: int, delta: float) -> float:
    """Return the least ε of k queries to a Gaussian mechanism at δ, by bisection.

    Args:
        shift: sensitivity in deviations of the noise, Δ/σ.
        queries: k.
        delta: δ in (0, 1) for all queries together.
    """
    together = shift * queries**0.5
    if gaussian_delta(together, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(together, high) > delta:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian_delta(together, middle) > delta else (low, middle)
    return high


def _in_words(epsilon: float, delta: float) -> str:
    odds = math.exp(-epsilon)
    right = min(1.0, (1 + delta * odds) / (1 + odds))
    if right > CERTAIN:
        return f"it excludes nothing: which of two images was sent may be told in more than {CERTAIN:.1%} of cases"
    return f"which of two images was sent is told in at most {right:.1%} of cases"
