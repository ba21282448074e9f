"""What certainly leaks: a critic that tells a wire's own image from others."""

from __future__ import annotations

import math

import torch

from ..ranges import Batch, Whole
from ..registry import plugin
from ._critic import learned
from ._jackknife import AT_CAP, at_cap, jackknifed
from .base import Bound, Channel, Estimate

MOST, AT_ONCE = 4000, 1000
"""Held-out images among which a wire's own is looked for."""
ASSUMPTIONS = (
    "The images are independent draws from the population, and no two of them are the same.",
    "It never exceeds ln {n} = {most:.3g} nats, however much leaks: near that it says nothing of how much.",
)


@plugin("infonce")
class InfoNCE(Bound):
    """Bound the leakage from below by how well a critic finds the feature that a wire came from.

    I(x; z_wire) ≥ E[ln s_ii − ln (1/K) Σ_j s_ij], with s_ij any score of the wire of image i with image j (van den Oord
    et al., "Representation learning with contrastive predictive coding", 2018; Poole et al., ICML 2019). The critic
    learns on the ``fit`` images with fresh wires (AdamW), the best of its states on ``choose`` is kept, and the bound
    is made of the K held-out images. It needs wires only, and so holds for every defense.

    Args:
        steps: of AdamW, at most; 0: distances in units of the noise alone.
        batch_size: images in a step.

    >>> from splitveil.bounds._examples import linear_channel
    >>> channel, exact = linear_channel(sigma=1.0, dimension=4, images=1000)
    >>> (found,) = InfoNCE(steps=100).estimate(channel, torch.Generator().manual_seed(0))
    >>> found.kind, 0.8 * exact < found.value < found.interval.hi < 1.2 * exact
    ('lower', True)
    """

    revision = 2  # an interval at the cap too

    def __init__(self, steps: Whole = 200, batch_size: Batch = 128):
        self.steps, self.batch_size = steps, batch_size

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        view, critic = learned(channel, rng, self.steps, self.batch_size)
        order = torch.randperm(len(channel.held_out), generator=rng, device=rng.device)[:MOST]
        z = channel.features("held_out")[order]
        with torch.no_grad():
            features, wires = view(z), view(channel.model.protect(z, rng))
            interval = jackknifed(critic(features, part) for part in wires.split(AT_ONCE))
        n = len(order)
        told, capped = (ASSUMPTIONS[0], ASSUMPTIONS[1].format(n=n, most=math.log(n))), at_cap(interval.mean, n)
        told += (AT_CAP,) if capped else ()
        limit = f"at its cap of {math.log(n):.3g}" if capped else f"at most {math.log(n):.3g}"
        about = f"InfoNCE with a critic on {n:,} images, {limit}"
        return [Estimate(interval.mean, "lower", "leakage", about, told, n, interval)]
