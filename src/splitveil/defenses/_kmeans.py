"""k-means of every class at once: batched matrix products, no loop over classes, clusters or samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ._by_class import by_class

ELEMENTS_AT_ONCE = 2**22
"""Bounds the memory in which squares are summed."""


@dataclass(slots=True)
class Clusters:
    """Hard clusters of each class.

    Attributes:
        centers: (C, K, m).
        counts: (C, K).
        variance: (C, K, m), mean square deviation from the center per dimension, biased (divided by the count), 0
            where a cluster is empty.
    """

    centers: Tensor
    counts: Tensor
    variance: Tensor


def seed_centers(grouped: Tensor, valid: Tensor, k: int, rng: torch.Generator) -> Tensor:
    """Return centers (C, K, m) of all classes, chosen by k-means++ (Arthur & Vassilvitskii 2007).

    A class with fewer different images than clusters repeats some of them; the repeats stay empty. ``grouped`` shall be
    near zero, against its spread.
    """
    classes, n, m = grouped.shape
    rows = torch.arange(classes, device=grouped.device)
    norms = grouped.square().sum(-1)
    distance = torch.full_like(norms, torch.inf)
    chances = valid.float()
    centers = grouped.new_empty(classes, k, m)
    for j in range(k):
        # A class without images, or whose images all coincide, has no probability left: its first slot is taken.
        chances = torch.where(chances.sum(1, keepdim=True) > 0, chances, torch.eye(1, n, device=chances.device))
        chosen = torch.multinomial(chances, 1, generator=rng)[:, 0]
        centers[:, j] = grouped[rows, chosen]
        product = torch.bmm(grouped, centers[:, j, :, None])[..., 0]
        distance = torch.minimum(distance, norms - 2 * product + centers[:, j].square().sum(-1, keepdim=True))
        chances = distance.clamp_min(0) * valid
    return centers


def fit(
    z: Tensor,
    y: Tensor,
    classes: int,
    k: int,
    rng: torch.Generator,
    *,
    start: Tensor | None = None,
    iterations: int = 50,
    tolerance: float = 1e-3,
    sample: int = 512,
    smallest: int = 0,
) -> Clusters:
    """Find the clusters of every class at once by Lloyd's algorithm.

    Args:
        z: (N, m) features.
        y: (N,) classes.
        classes: number of classes C.
        k: most clusters per class.
        rng: of k-means++.
        start: (C, K, m) centers of an earlier fit; without them k-means++ chooses.
        iterations: most rounds.
        tolerance: stop when fewer than this part of the samples changed their cluster.
        sample: the centers are looked for among the first so many features of each class, which come shuffled.
        smallest: clusters with fewer samples give them to the nearest of the others of their class and stay empty.

    >>> z = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    >>> fit(z, torch.zeros(4, dtype=torch.long), 1, 2, torch.Generator().manual_seed(0)).counts
    tensor([[2., 2.]])
    """
    grouped, valid = by_class(z, y, classes)
    # Distances come from squared norms, which drown them where a class is far from zero: each is moved to its mean.
    mean = grouped.sum(1, keepdim=True) / valid.sum(1).clamp_min(1)[:, None, None]
    grouped -= mean
    part, known = grouped[:, :sample], valid[:, :sample]
    centers = seed_centers(part, known, k, rng) if start is None else start - mean
    most = (valid.sum(1, keepdim=True) // max(smallest, 1)).clamp(1, k) if smallest else k
    live = (torch.arange(k, device=z.device) < most).expand(classes, k)
    assigned = torch.full(known.shape, -1, device=z.device)
    for _ in range(iterations):
        previous, assigned = assigned, _assign(part, centers, live)
        counts, sums = _sums(part, known, assigned, k)
        centers = torch.where(counts[..., None] > 0, sums / counts.clamp_min(1)[..., None], centers)
        if float(((assigned != previous) & known).sum()) <= tolerance * known.sum():
            break
    if part.shape != grouped.shape:
        assigned = _assign(grouped, centers, live)
        counts, sums = _sums(grouped, valid, assigned, k)
        centers = torch.where(counts[..., None] > 0, sums / counts.clamp_min(1)[..., None], centers)
    if (counts.gt(0) & counts.lt(smallest)).any():
        live = (counts >= smallest) | one_hot(counts.argmax(1), k).bool()
        # Only the samples of the clusters that are given up move, so that the others cannot fall below the limit.
        assigned = torch.where(live.gather(1, assigned), assigned, _assign(grouped, centers, live))
        counts, sums = _sums(grouped, valid, assigned, k)
        centers = torch.where(counts[..., None] > 0, sums / counts.clamp_min(1)[..., None], centers)
    counts, squares = _squares(grouped, valid, centers, assigned)
    return Clusters(centers + mean, counts, squares / counts.clamp_min(1)[..., None])


def deviations(z: Tensor, y: Tensor, clusters: Clusters) -> tuple[Tensor, Tensor]:
    """Return how other samples deviate from the centers, each given to the nearest non-empty cluster of its class.

    A class whose clusters are all empty counts as its first.

    Returns:
        Counts (C, K) and sums of squared deviations (C, K, m).
    """
    grouped, valid = by_class(z, y, len(clusters.centers))
    middle = clusters.centers.mean(1, keepdim=True)  # see `fit`
    grouped -= middle
    centers = clusters.centers - middle
    return _squares(grouped, valid, centers, _assign(grouped, centers, clusters.counts > 0))


def _assign(grouped: Tensor, centers: Tensor, live: Tensor) -> Tensor:
    # |z − μ|² without |z|², which is the same for every cluster.
    scores = torch.baddbmm(centers.square().sum(-1)[:, None, :], grouped, centers.transpose(1, 2), alpha=-2)
    return scores.masked_fill(~live[:, None], torch.inf).argmin(-1)


def _squares(grouped: Tensor, valid: Tensor, centers: Tensor, assigned: Tensor) -> tuple[Tensor, Tensor]:
    rows = max(1, ELEMENTS_AT_ONCE // (len(centers) * centers.shape[2]))
    counts, squares = centers.new_zeros(centers.shape[:2]), torch.zeros_like(centers)
    for part, known, near in zip(grouped.split(rows, 1), valid.split(rows, 1), assigned.split(rows, 1), strict=True):
        residual = part - centers.gather(1, near[..., None].expand(-1, -1, part.shape[-1]))
        found = _sums(residual.square_(), known, near, centers.shape[1])
        counts, squares = counts + found[0], squares + found[1]
    return counts, squares


def _sums(values: Tensor, valid: Tensor, assigned: Tensor, k: int) -> tuple[Tensor, Tensor]:
    member = one_hot(assigned, k).to(values.dtype) * valid[..., None]
    return member.sum(1), torch.bmm(member.transpose(1, 2), values)
