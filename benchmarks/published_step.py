"""A training step as the method was published, in plain PyTorch: what `benchmarks/speed.py` compares ours with.

Written from the description of the method and not from its code: two backward passes, one of the conditional entropy
for the encoder and one of the task, and loops over the classes of the batch and over their clusters. fp32, the images
already decoded, normalized and on the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

CLUSTERS = 5
FLOOR = 0.01


def entropy_loss(z: Tensor, y: Tensor, centers: Tensor, variances: Tensor, sizes: Tensor, limit: float) -> Tensor:
    """Return the conditional-entropy loss of a batch: a mean over its classes of a sum over their clusters.

    Args:
        z: features (B, m). y: classes (B,).
        centers: (C, K, m). variances, sizes: (C, K).
        limit: variance below which a cluster is left alone.
    """
    total, classes = torch.zeros(()), y.unique()
    for c in classes.tolist():
        members = z[y == c]
        distances = ((members.detach()[:, None] - centers[c][None]) ** 2).sum(-1)
        nearest = distances.argmin(1)
        for j in range(CLUSTERS):
            chosen = members[nearest == j]
            if len(chosen) == 0:
                continue
            spread = ((chosen - centers[c, j]) ** 2).mean()
            share = min(0.99, 10 * len(chosen) / float(sizes[c, j]))
            variance = share * spread + (1 - share) * variances[c, j]
            weight = sizes[c, j] / sizes[c].sum()
            total = total + weight * torch.relu(torch.log(variance + FLOOR) - math.log(limit + FLOOR))
    return total / len(classes)


def published_step(
    encoder: nn.Module, tail: nn.Module, x: Tensor, y: Tensor, *, weight: float = 16.0, sigma: float = 0.025
) -> Callable[[], None]:
    """Return a function that makes one step on images x (B, 3, S, S) of classes y (B,)."""
    encoder.train()
    tail.train()
    own = list(encoder.parameters())
    optimizer = torch.optim.SGD([*own, *tail.parameters()], 0.05, momentum=0.9, weight_decay=5e-4)
    with torch.no_grad():
        features = encoder(x).flatten(1)
    classes = int(y.max()) + 1
    picks = torch.randint(0, len(x), (classes, CLUSTERS), generator=torch.Generator().manual_seed(0))
    centers, variances = features[picks], torch.full((classes, CLUSTERS), float(features.var(0).mean()))
    sizes = torch.full((classes, CLUSTERS), 1000.0)

    def step() -> None:
        z = encoder(x)
        logits = tail(z + sigma * torch.randn_like(z))
        optimizer.zero_grad()
        entropy_loss(z.flatten(1), y, centers, variances, sizes, 0.125 * sigma**2).backward(retain_graph=True)
        kept = [p.grad.clone() for p in own if p.grad is not None]
        optimizer.zero_grad()
        cross_entropy(logits, y).backward()
        for gradient, entropy in zip((p.grad for p in own if p.grad is not None), kept, strict=True):
            gradient += weight * (0.001 / 0.05) * entropy  # in place
        optimizer.step()

    return step
