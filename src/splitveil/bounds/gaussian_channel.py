"""The cap of a Gaussian channel."""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import plugin
from . import _gaussians, _principal
from ._cross_entropy import gaps, upper_bound
from .base import Bound, Channel, Estimate


@plugin("channel")
class GaussianChannel(Bound):
    """Bound the leakage by that of Gaussian features with the same covariance.

    I(x; z_wire) ≤ ½ log det(I + Cov(z)/σ²): of all features with this covariance Gaussian ones say most (Cover and
    Thomas, "Elements of Information Theory", theorem 8.6.5). Covariance and estimate are made of different images: the
    cross-entropy E[log p(z_wire|x) − log q(z_wire)] with q one Gaussian, which is an upper bound for any q. Where
    the wire has more than half as many values as there are images to fit on, or more than 4,096, q has principal
    directions with a variance each, and one variance for all others.

    Raises:
        BoundError: the wire's noise is not Gaussian, or there is none.

    >>> from splitveil.bounds._examples import linear_channel
    >>> channel, exact = linear_channel(sigma=0.5)
    >>> found = GaussianChannel().estimate(channel, torch.Generator().manual_seed(0))[0]
    >>> found.kind, abs(found.value / exact - 1) < 0.05
    ('upper', True)
    """

    revision = 2  # no end below 0

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        law = channel.conditional("fit")
        noise = law.variance.mean(0)
        if _principal.needed(*law.mean.shape):
            return [_wide(channel, law.mean, float(noise.mean()), rng)]
        one = torch.zeros(len(law.mean), dtype=torch.long, device=law.mean.device)
        return [
            upper_bound(channel, _gaussians.full(_gaussians.Groups(law.mean, one, 1), noise, 0.0), "one Gaussian", rng)
        ]


def _wide(channel: Channel, z: Tensor, noise: float, rng: torch.Generator) -> Estimate:
    start = rng.get_state()

    def gap(q: _principal.Principal) -> float:
        rng.set_state(start)  # each density meets the same noise
        return float(gaps(channel, "choose", q, rng).mean())

    best = min(_principal.candidates(z, channel.conditional("choose").mean, noise), key=gap)
    return upper_bound(channel, best, f"one Gaussian of {len(best.variances)} directions", rng)
