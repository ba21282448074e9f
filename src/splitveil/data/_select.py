"""Class-balanced selection of images, before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UserError


def balanced(labels: Tensor | Sequence[int], count: int, rng: torch.Generator | None = None) -> Tensor:
    """Return indices (int64, sorted) of ``count`` images with as equal numbers per class as there are images.

    Without ``rng`` the first of each class are taken, with it random ones. The first classes get one more
    where ``count`` is no multiple of the number of classes; a class that runs out leaves its share to the others.

    >>> balanced([0, 0, 0, 1, 1, 1], 3).tolist()
    [0, 1, 3]
    """
    labels = torch.as_tensor(labels, dtype=torch.int64).cpu()
    shuffled = torch.arange(len(labels)) if rng is None else torch.randperm(len(labels), generator=rng)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = torch.bincount(labels)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(labels)) - starts[labels[by_class]]
    # Round robin: all first images of the classes, then all second ones, ...
    return by_class[rank.argsort(stable=True)[:count]].sort().values


def held_out(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return indices (int64, sorted) of ``count`` random images, chosen so that the others still have every class.

    Classes give equally many (`balanced`), unless one would keep none, or less than half of what an equal part of every
    class would leave it: then each gives its part, in proportion to its size.

    Args:
        labels: (N,).
        count: number of images.
        rng: generator of the choice.

    >>> labels = torch.tensor([0] * 50 + [1] * 5 + [2] * 45)
    >>> chosen = held_out(labels, 20, torch.Generator().manual_seed(0))
    >>> torch.bincount(labels[chosen]).tolist()
    [10, 1, 9]
    """
    state, labels = rng.get_state(), labels.cpu()
    chosen, sizes = balanced(labels, count, rng), torch.bincount(labels)
    kept = sizes - torch.bincount(labels[chosen], minlength=len(sizes))
    stripped = (2 * kept < sizes * (1 - count / max(1, len(labels))) - 1) | ((kept == 0) & (sizes > 0))
    if not bool(stripped.any()):
        return chosen
    rng.set_state(state)
    shuffled = torch.randperm(len(labels), generator=rng)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    of_class = labels[by_class]
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[of_class]
    # The k-th image of n stands at (k + 1/2)/n: a tenth of all places is a tenth of every class.
    return by_class[((rank + 0.5) / sizes[of_class]).argsort(stable=True)[:count]].sort().values


def in_proportion(labels: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Return indices (int64, sorted) of ``count`` random images, of every class in proportion to its size.

    Each image is taken with the same probability, so that those that are chosen, and the others, stand for all. Which
    classes give one more where their parts are no whole numbers is drawn.

    Args:
        labels: (N,).
        count: number of images.
        rng: generator of the choice.

    >>> labels = torch.tensor([0] * 60 + [1] * 40)
    >>> torch.bincount(labels[in_proportion(labels, 50, torch.Generator().manual_seed(0))]).tolist()
    [30, 20]
    """
    labels = labels.cpu()
    shuffled, sizes = torch.randperm(len(labels), generator=rng), torch.bincount(labels)
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    of_class = labels[by_class]
    rank = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[of_class]
    start = torch.full((len(sizes),), 0.5, dtype=torch.float64)
    if bool((count * sizes % max(1, len(labels))).any()):  # else nothing is left to draw
        start = torch.rand(len(sizes), generator=rng, dtype=torch.float64)
    return by_class[((rank + start[of_class]) / sizes[of_class]).argsort(stable=True)[:count]].sort().values


def spread(labels: Tensor | Sequence[int], counts: Sequence[int]) -> Tensor:
    """Return a mask (bool, (N,)) of ``counts[c]`` images of every class c, evenly spaced over those of the class."""
    labels = torch.as_tensor(labels, dtype=torch.int64)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts):
        members = (labels == label).nonzero().flatten()
        mask[members[((torch.arange(count) + 0.5) * len(members) / count).long()]] = True
    return mask


def chosen(labels: Sequence[int] | Tensor, size: int | None, part: str) -> Tensor:
    """Return the indices for ``--train-size`` / ``--test-size``: all for None, else the first of each class.

    Raises:
        UserError: ``size`` is not positive or more than there are images.
    """
    if size is None:
        return torch.arange(len(labels))
    if size < 1:
        raise UserError(f"{part} size {size}: expected a positive number of images")
    if size > len(labels):
        raise UserError(f"{part} size {size}: there are {len(labels)} {part} images; ask for at most that many")
    return balanced(labels, size)
