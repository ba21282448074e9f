"""The leakage of a wire by mixtures of Gaussians, held out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..defenses import _kmeans
from ..ranges import Count
from ..registry import plugin
from . import _gaussians, _low_rank, _principal
from ._cross_entropy import Density, gaps, upper_bound
from .base import Bound, Channel, Estimate

Fit = Callable[[_gaussians.Groups, Tensor, float], Density]
PULL = (1.0, 4.0)
"""Weights of the pooled covariance that are tried: samples, as multiples of the dimension (of 20 for diagonals, of the
rank where that is low)."""
SMALLEST = 20
"""Images in a cluster, below which it is merged into another of its class."""


@plugin("mixture")
class MixtureBound(Bound):
    """Bound the leakage by the cross-entropy of the wire under a mixture of Gaussians.

    For any density q, I(x; z_wire) ≤ E[log p(z_wire|x) − log q(z_wire)]. One Gaussian, one per class and one per
    cluster of each class, with full, diagonal and low-rank-plus-diagonal covariances, are fitted on one part of the
    images; where these are few for so wide a wire, one Gaussian of principal directions as well. The density that is
    best on a second part is scored on the third, with fresh noise. The mean is therefore an unbiased estimate of a true
    upper bound, and its interval is honest. What a training logs (Theorem 2 of arXiv 2503.00383, with diagonal
    covariances) is only an estimate: the encoder was trained on the images that it is about.

    Args:
        clusters: most clusters of each class.

    Raises:
        BoundError: the wire's noise is not Gaussian, or there is none.

    >>> from splitveil.bounds._examples import linear_channel
    >>> channel, exact = linear_channel(sigma=0.5)
    >>> found = MixtureBound().estimate(channel, torch.Generator().manual_seed(0))[0]
    >>> found.kind, found.interval.hi > exact
    ('upper', True)
    """

    revision = 2  # no end below 0

    def __init__(self, clusters: Count = 5):
        self.clusters = clusters

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        start = rng.get_state()
        key = "mixture", self.clusters, start.numpy().tobytes()
        if key in channel.kept:  # `pac` and `entropy` ask for it as well
            found, after = channel.kept[key]
            rng.set_state(after)
            return list(found)

        def gap(q: Density) -> float:
            rng.set_state(start)  # each density meets the same noise
            return float(gaps(channel, "choose", q, rng).mean())

        candidates = self._candidates(channel, rng)
        best = min(candidates, key=lambda about: gap(candidates[about]))
        found = [upper_bound(channel, candidates[best], best, rng)]
        channel.kept[key] = found, rng.get_state()
        return list(found)

    def _candidates(self, channel: Channel, rng: torch.Generator) -> dict[str, Density]:
        law, y = channel.conditional("fit"), channel.labels("fit")
        z, noise = law.mean, law.variance.mean(0)
        dimension = z.shape[1]  # of what is sent, which a defense may have made of fewer numbers than the feature has
        forms: dict[str, tuple[Fit, int, tuple[float, ...]]] = {"diagonal": (_gaussians.diagonal, 20, PULL)}
        if dimension <= _gaussians.FULL_UP_TO:
            forms["full"] = _gaussians.full, dimension, PULL
            few = max(1, dimension // _low_rank.PART)  # that only few directions are kept steadies it already
            forms["low-rank-plus-diagonal"] = _low_rank.low_rank, few, PULL[:1]
        groupings = {"one Gaussian": torch.zeros_like(y), "one Gaussian per class": y}
        if self.clusters > 1:
            groupings[f"up to {self.clusters} Gaussians per class"] = _clusters(z, y, self.clusters, rng)
        found: dict[str, Density] = {}
        for grouping, index in groupings.items():
            index = index.unique(return_inverse=True)[1]
            groups = _gaussians.Groups(z, index, count := int(index.max()) + 1)
            for form, (fit, unit, pulls) in forms.items():
                for pull in pulls if count > 1 else pulls[:1]:
                    about = f"{grouping}, {form} covariances" + (f", pooled weight {pull:g}" if count > 1 else "")
                    found[about] = fit(groups, noise, pull * unit)
        if _principal.needed(len(z), dimension):
            others = channel.conditional("choose").mean
            for one in _principal.candidates(z, others, float(noise.mean())):
                found[f"one Gaussian of {len(one.variances)} directions"] = one
        return found


def _clusters(z: Tensor, y: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Return the cluster of each feature, (N,): k-means within the classes."""
    classes = int(y.max()) + 1
    found = _kmeans.fit(z.float(), y, classes, k, rng, smallest=SMALLEST)
    distance = torch.cdist(z[:, None].float(), found.centers[y]).squeeze(1)
    return y * k + distance.masked_fill(found.counts[y] == 0, torch.inf).argmin(1)
