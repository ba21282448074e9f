"""The Gaussian mixture of `cem`: variances estimated from few images, and the bound on held-out features."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from . import _kmeans

SMALLEST = 20
"""Least number of images in a cluster; smaller ones are merged into others of their class."""
PRIOR = 20
"""Pseudo-counts with which a variance is shrunk to that of a larger group."""
FOLDS = 5
"""Parts of the features, each held out once, until `ENOUGH` have been scored."""
ENOUGH = 5000
"""Number of images whose mean is precise enough: a further clustering would cost more than it tells."""


def fit(
    z: Tensor, y: Tensor, classes: int, k: int, rng: torch.Generator, start: Tensor | None = None
) -> _kmeans.Clusters:
    """Return clusters of at least `SMALLEST` images (or whole classes), with variances estimated by `shrunk`."""
    found = _kmeans.fit(z, y, classes, k, rng, start=start, smallest=SMALLEST)
    return replace(found, variance=shrunk(found.counts, found.variance))


def shrunk(counts: Tensor, variance: Tensor) -> Tensor:
    """Return unbiased variances within clusters (C, K, m), shrunk to their class's and those to the whole set's.

    With n members and the unbiased variance s², v = ((n − 1) s² + PRIOR · v₀)/(n − 1 + PRIOR), v₀ the pooled variance
    within the clusters of the class, itself estimated so from that of all classes. A cluster of one has v = v₀ instead
    of 0, whose bound would be infinitely steep. The pooled variances are those *within* clusters, without the spread of
    their centers.

    Args:
        counts: (C, K).
        variance: (C, K, m), biased (divided by the counts).

    >>> shrunk(torch.tensor([[21.0, 1.0]]), torch.tensor([[[2.0], [0.0]]])).flatten()  # 21 · 2/20 = 2.1 everywhere
    tensor([2.1000, 2.1000])
    """
    freedom = (counts - 1).clamp_min(0)[..., None]
    squares = counts[..., None] * variance
    overall = squares.sum((0, 1)) / freedom.sum((0, 1)).clamp_min(1)
    of_class = (squares.sum(1, keepdim=True) + PRIOR * overall) / (freedom.sum(1, keepdim=True) + PRIOR)
    return (squares + PRIOR * of_class) / (freedom + PRIOR)


def bound(weights: Tensor, variance: Tensor, sigma2: float, counts: Tensor, squares: Tensor) -> Tensor:
    """Return the mean of −log π_j + KL(N(z, σ²) ‖ N(μ_j, v_j + σ²)) over samples z of clusters j, in nats.

    For samples on which (π, μ, v) do not depend, its expectation is at least I(x; z_wire), whatever (π, μ, v) are: the
    wire's divergence from the mixture of the N(μ_j, v_j + σ²) is no less than its mutual information with the image,
    and one component of a mixture gives no more than the whole. Term by term it is
    −log π_j + ½ Σ_d [ log(1 + v_jd/σ²) + ((z − μ_j)_d² − v_jd)/(v_jd + σ²) ]; where π and v are the samples' own, the
    last part falls away and the right side of Theorem 2 with diagonal covariances is left.

    Args:
        weights: π (C, K), positive where there are samples.
        variance: v (C, K, m).
        sigma2: noise variance, > 0.
        counts: (C, K) samples in each cluster.
        squares: (C, K, m) sums of (z − μ_j)².

    >>> half, none = torch.full((1, 2), 0.5), torch.zeros(1, 2, 3)
    >>> float(bound(half, none, 0.1, 7 * half, none))  # two equal clusters without spread: log 2
    0.6931471824645996
    """
    spread = (torch.log1p(variance / sigma2) - variance / (variance + sigma2)).sum(-1) / 2
    price = torch.where(counts > 0, spread - weights.log(), 0)  # an empty cluster may have weight 0
    return ((counts * price).sum() + (squares / (variance + sigma2)).sum() / 2) / counts.sum()


def held_out_nats(z: Tensor, y: Tensor, classes: int, k: int, sigma2: float, rng: torch.Generator) -> Tensor:
    """Return an estimate of an upper bound on I(x; z_wire): `bound` on features that the clusters were not made of.

    A fifth of every class (of neighboring classes together where they have fewer than five) is held out in turn, and
    scored with clusters of the rest, which do not start from any that knew it; of 25,000 features and more only one
    fifth. Unbiased for the bound that four fifths of the images give, which lies the higher the fewer they are: no
    underestimate, but in small classes a loose one.

    Args:
        z: (N, m), N at least 2.
        y: (N,) classes.
        classes: number of classes C.
        k: most clusters per class.
        sigma2: noise variance, > 0.
        rng: generator of the folds and of k-means++.
    """
    folds = min(FOLDS, len(y))
    fold = torch.empty_like(y)
    fold[torch.argsort(y, stable=True)] = torch.arange(len(y), device=y.device) % folds
    nats, scored = z.new_zeros(()), 0
    for number in range(folds):
        out = fold == number
        found = fit(z[~out], y[~out], classes, k, rng)
        unseen = found.counts.sum(1) == 0
        found.centers[unseen] = z[~out].mean(0)
        # Part of one image is in every cluster beforehand: a class may be there only in what is held out.
        weights = (found.counts + 1 / k) / (found.counts.sum() + classes)
        counts, squares = _kmeans.deviations(z[out], y[out], found)
        size = int(out.sum())
        nats += size * bound(weights, found.variance, sigma2, counts, squares)
        scored += size
        if scored >= ENOUGH:
            break
    return nats / scored
