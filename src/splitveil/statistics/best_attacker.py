"""The best attacker who does not know the attacked images: one who chooses among attacks by what an attacker has.

The worst case takes, for each image, the answer with the lowest error, which only somebody who has the image can do.
An attacker knows two things: the errors on own images that no attack has learned from, and how far each answer's wire
is from the wire that was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

DISTANCE = "wire_distance"
"""Name of the column that says how far the wire of an answer is from the wire that was seen."""
PER_IMAGE = "choice per image"
FOLDS = 4
ROUNDING = 1e-9
"""Relative difference that two sums of the same numbers may have."""
Values = Mapping[str, Mapping[str, Tensor]]
"""Attack -> column -> one number per image."""


@dataclass(frozen=True)
class BestAttacker:
    """The attack that is best on the attacker's held-out images.

    Attributes:
        name: the attack's label, or `PER_IMAGE`.
        chosen: label of the attack whose answer is given, for each attacked image.
        held_out: mean squared error on the attacker's held-out images of each attack and, where it can be made, of the
            choice per image.
    """

    name: str
    chosen: list[str]
    held_out: dict[str, float]


def best_attacker(held: Values, attacked: Values) -> BestAttacker | None:
    """Return the attack with the lowest error on held-out images, or the choice per image where that is lower.

    The choice per image takes the attack j with the lowest a_j + b log d_ij, where d_ij is the distance on the wire;
    a_j and b are least squares for the log errors of the held-out images, each image's mean taken off. Its own error is
    found by cross-validation.

    Args:
        held: of the held-out images, with "mse" and, where the attacker has the encoder, `DISTANCE`.
        attacked: of the attacked images; only `DISTANCE` is used.

    Returns:
        None where an attack has no errors on held-out images.

    >>> one, two = torch.tensor([0.1, 0.3]), torch.tensor([0.3, 0.4])
    >>> best_attacker({"a": {"mse": two}, "b": {"mse": one}}, {"a": {"mse": one}, "b": {"mse": two}}).chosen
    ['b', 'b']
    """
    names = list(attacked)
    if not all(name in held and len(held[name]["mse"]) for name in names):
        return None
    errors = torch.stack([held[name]["mse"].double() for name in names], 1)
    means = dict(zip(names, errors.mean(0).tolist(), strict=True))
    single = min(names, key=lambda name: means[name])
    count = len(next(iter(attacked[single].values())))
    alone = BestAttacker(single, [single] * count, means)
    if (
        len(names) == 1
        or len(errors) < 2 * FOLDS
        or not all(DISTANCE in held[n] and DISTANCE in attacked[n] for n in names)
    ):
        return alone
    own, theirs = (torch.stack([found[name][DISTANCE].double() for name in names], 1) for found in (held, attacked))
    means = means | {PER_IMAGE: _cross_validated(errors, own)}
    if means[PER_IMAGE] >= (1 - ROUNDING) * means[single]:  # it may well be that one attack is chosen for every image
        return BestAttacker(single, alone.chosen, means)
    return BestAttacker(PER_IMAGE, [names[i] for i in _choice(errors, own, theirs).tolist()], means)


def _cross_validated(errors: Tensor, distance: Tensor) -> float:
    fold = torch.arange(len(errors)) % FOLDS
    total = 0.0
    for k in range(FOLDS):
        chosen = _choice(errors[fold != k], distance[fold != k], distance[fold == k])
        total += float(errors[fold == k].gather(1, chosen[:, None]).sum())
    return total / len(errors)


def _choice(errors: Tensor, own: Tensor, theirs: Tensor) -> Tensor:
    """Return the attack's index for each row of ``theirs`` (M, A), learned from ``errors`` and ``own`` (N, A): (M,)."""
    y, d = _log(errors), _log(own)
    y, d = y - y.mean(1, keepdim=True), d - d.mean(1, keepdim=True)
    level, middle = y.mean(0), d.mean(0)
    spread = (d - middle).square().sum()
    slope = ((d - middle) * (y - level)).sum() / spread if spread > 0 else torch.zeros((), dtype=y.dtype)
    d = _log(theirs)
    return (level + slope * (d - d.mean(1, keepdim=True) - middle)).argmin(1)


def _log(values: Tensor) -> Tensor:
    return values.clamp(min=1e-12).log()
