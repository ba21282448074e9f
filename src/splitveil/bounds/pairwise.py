"""Bounds on the leakage from the distances between the wires of image pairs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..registry import plugin
from ._cross_entropy import ONE_SEEN
from ._jackknife import AT_CAP, at_cap, jackknifed
from .base import Bound, BoundError, Channel, Estimate

WORLD = "The image is one of these {n}, each as likely: of other images it says nothing."
SAMPLED = "The images are independent draws from the population; the bound then holds for it on average over draws."
NEVER = "It never exceeds ln {n} = {most:.3g} nats, however much leaks: near that it says nothing of how much."
NOISE = "The noise on the wire is Gaussian with the variance that the defense declares, the same for every image."


@plugin("pairwise")
class PairwiseBound(Bound):
    """Bound the leakage from below and from above by the distances between the images' wires.

    For N equally likely images with wires N(μ_i, Σ) and D_ij = (μ_i − μ_j)ᵀ Σ⁻¹ (μ_i − μ_j),

        −(1/N) Σ_i ln (1/N) Σ_j exp(−D_ij/8) ≤ I(x; z_wire) ≤ −(1/N) Σ_i ln (1/N) Σ_j exp(−D_ij/2)

    (Kolchinsky and Tracey, "Estimating mixture entropy with pairwise distances", Entropy 2017). The lower one holds for
    all images of the population too, as the leakage is concave in their distribution; the upper one is not. Of a wire
    that is sent by a codec only the upper one is told.

    Raises:
        BoundError: the wire's noise is not Gaussian, there is none, or it differs between images.

    >>> from splitveil.bounds._examples import linear_channel
    >>> channel, exact = linear_channel(sigma=1.0, dimension=2)
    >>> lower, upper = PairwiseBound().estimate(channel, torch.Generator().manual_seed(0))
    >>> lower.value < exact < upper.value
    True
    """

    revision = 2  # an interval at the cap too

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        z = whitened(channel, "held_out")
        n = len(z)
        lower, upper = (
            jackknifed(-torch.cdist(part, z).square() / scale for part in z.split(1000)) for scale in (8, 2)
        )
        never = NEVER.format(n=n, most=math.log(n))
        world = WORLD.format(n=n)
        capped = at_cap(lower.mean, n)
        told = (NOISE, SAMPLED, never, AT_CAP) if capped else (NOISE, SAMPLED, never)
        about = f"distances between pairs, at its cap of {math.log(n):.3g}" if capped else "distances between pairs"
        below = Estimate(lower.mean, "lower", "leakage", about, told, n, lower)
        above = Estimate(upper.mean, "upper", "leakage", f"one of {n} known images", (NOISE, world, ONE_SEEN, never), n)
        return [above] if channel.coded else [below, above]  # less may arrive behind a codec


def whitened(channel: Channel, part: str) -> Tensor:
    """Return the means of a part's wires (N, D) about their mean, in units of the noise's standard deviation.

    Args:
        channel: model and images.
        part: "fit", "choose" or "held_out".

    Raises:
        BoundError: the wire's noise is not Gaussian, there is none, or it differs between images.
    """
    law = channel.conditional(part)
    if bool((law.variance != law.variance[:1]).any()):
        raise BoundError("the noise differs between images; pairwise distances need the same for all")
    # Distances are made of products, which lose their digits where all wires are far from zero.
    return (law.mean - law.mean.mean(0)) / law.variance[0].sqrt()
