"""The cap of a Gaussian channel."""

from __future__ import annotations

import torch

from ..registry import plugin
from . import _gaussians
from ._cross_entropy import upper_bound
from .base import Bound, Channel, Estimate


@plugin("channel")
class GaussianChannel(Bound):
    """Bound the leakage by that of Gaussian features with the same covariance.

    I(x; z_wire) ≤ ½ log det(I + Cov(z)/σ²): of all features with this covariance Gaussian ones say most (Cover and
    Thomas, "Elements of Information Theory", theorem 8.6.5). Covariance and estimate are made of different images: the
    cross-entropy E[log p(z_wire|x) − log q(z_wire)] with q one Gaussian, which is an upper bound for any q.

    Raises:
        BoundError: the wire's noise is not Gaussian, or there is none.

    >>> from splitveil.bounds._examples import linear_channel
    >>> channel, exact = linear_channel(sigma=0.5)
    >>> found = GaussianChannel().estimate(channel, torch.Generator().manual_seed(0))[0]
    >>> found.kind, abs(found.value / exact - 1) < 0.05
    ('upper', True)
    """

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        law = channel.conditional("fit")
        one = torch.zeros(len(law.mean), dtype=torch.long, device=law.mean.device)
        fit = _gaussians.full if channel.dimension <= _gaussians.FULL_UP_TO else _gaussians.diagonal
        return [upper_bound(channel, fit(law.mean, law.variance.mean(0), one, 1, 0.0), "one Gaussian", rng)]
