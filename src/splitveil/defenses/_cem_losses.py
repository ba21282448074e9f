"""What `cem` needs beside its settings: clusters that follow the features within an epoch, and the released loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed
from torch.nn.functional import relu

from ._kmeans import Clusters

FLOOR = 0.01
"""Constant that the released loss adds to every variance."""


def filled(found: Clusters, z: Tensor) -> Clusters:
    """Return clusters, in place, those of classes without a feature as if they were of all classes together.

    There may be more classes than features that are kept, where the wire is wide.

    Args:
        found: of every class.
        z: all features (N, m).
    """
    unseen = found.counts.sum(1) == 0
    found.centers[unseen], found.variance[unseen] = z.mean(0), z.var(0, correction=0)
    return found


@torch.no_grad()
def follow(centers: Tensor, variance: Tensor, z: Tensor, index: Tensor, images: int) -> None:
    """Move centers and variances, in place, to those of the features that a batch brought.

    A cluster with h features in the batch moves by the part h/(images + h) towards their mean and their mean square
    deviation from the moved center: about its last ``images`` features count.

    Args:
        centers: of all clusters (J, m).
        variance: (J, m).
        z: features (B, m).
        index: cluster of each (B,).
        images: features that count.

    >>> center, variance = torch.zeros(1, 1), torch.ones(1, 1)
    >>> follow(center, variance, torch.tensor([[3.0], [1.0]]), torch.tensor([0, 0]), 2)
    >>> center, variance  # halfway to the mean 2, and to the mean square 2 of 3 − 1 and 1 − 1
    (tensor([[1.]]), tensor([[1.5000]]))
    """
    # Not one_hot, which reads the largest index on some devices, and so waits for it.
    member = (index[:, None] == torch.arange(len(centers), device=z.device)).to(z.dtype)
    hit = member.sum(0)[:, None]
    part, most = hit / (images + hit), hit.clamp_min(1)
    centers += part * (member.T @ z / most - centers)
    variance += part * (member.T @ (z - centers[index]).square() / most - variance)


def released(z: Tensor, centers: Tensor, variance: Tensor, counts: Tensor, index: Tensor, threshold: float) -> Tensor:
    """Return the loss of the published code, in nats of its own scale.

    Args:
        z: features (B, m).
        centers: (C, K, m).
        variance: (C, K, m).
        counts: (C, K).
        index: cluster of each feature among all C · K, (B,).
        threshold: variance below which a cluster is left alone.
    """
    square = (z - centers.flatten(0, 1)[index]).square()
    sizes, stored = counts.flatten(), variance.mean(-1).flatten()
    hit = torch.zeros_like(sizes).index_add(0, index, torch.ones_like(index, dtype=sizes.dtype))
    batch = torch.zeros_like(sizes).index_add(0, index, square.mean(1)) / hit.clamp_min(1)
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    share = (10 * ranks * hit / sizes.clamp_min(1)).clamp(max=0.99)  # of the whole batch
    mixed = share * batch + (1 - share) * stored
    excess = relu(torch.log(mixed + FLOOR) - math.log(threshold + FLOOR))
    weights = (counts / counts.sum(1, keepdim=True).clamp_min(1)).flatten()
    present = (hit.view_as(counts).sum(1) > 0).sum()
    return (weights * excess * (hit > 0)).sum() / present
