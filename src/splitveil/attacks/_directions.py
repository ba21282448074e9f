"""Wires whose noise is correlated between entries, as numbers whose noise is independent and of variance 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from ..defenses._law import Law
from ..model import SplitModel
from .base import Victim, seen

Numbers = Callable[[Tensor], Tensor]
"""Wires (B, ...) -> (B, k)."""

LEAST = 1e-4
"""Least variance of noise, in units of the variance over images: what has no noise does not outweigh all else."""
FREEDOM, MOST_LOOKS = 128, 64
"""Degrees of freedom for each number from which the covariance of the noise is measured, as far as so many looks go."""
LEAST_FREEDOM = 8
"""Degrees of freedom that each number has at least, however few images there are: with less than one, some direction
would seem to have no noise, and outweigh all others."""
ROUNDING = 1e-6
"""Part of `LEAST` that the noise has where there is none but that of the arithmetic."""


def numbers_of(
    model: SplitModel, law: Law, z: Tensor, first: Tensor, look: Callable[[], Tensor]
) -> tuple[Numbers | None, bool]:
    """Return numbers of wires with independent noise of variance 1 at each look, and whether their mean is told.

    None: the law knows of none, and wires are compared entry by entry.

    Args:
        model: with its defense.
        law: of wires.
        z: some features, (B, ...).
        first: a look at them, (B, ...).
        look: takes another look at them.
    """
    if law.reduced and cast("Any", model.defense).gaussian_law(z, torch.zeros_like(z)):
        return law.reduced, True
    return (whitened(law.directions, first, look) if law.directions else None), False


def one_look(model: SplitModel, z: Tensor, rng: torch.Generator, victim: Victim) -> Tensor:
    """Return a look at features (B, ...) as the attacker gets it; one of them where it gets all."""
    wire = seen(model, z, rng, victim.observed, victim.all_looks)
    return wire[:, 0] if victim.all_looks else wire


def whitened(numbers: Numbers, first: Tensor, look: Callable[[], Tensor]) -> Numbers | None:
    """Return the numbers of wires (B, ...) -> (B, k) with noise of variance 1, as measured; None where there is none.

    Args:
        numbers: of wires (B, ...), (B, k), in which the noise is correlated.
        first: a look at some images, (B, ...).
        look: takes another look at the same images.
    """
    shown = numbers(first).double()
    center = shown.mean(0)
    wanted, fewest = (2 + freedom * shown.shape[1] // len(shown) for freedom in (FREEDOM, LEAST_FREEDOM))
    count = min(wanted, max(MOST_LOOKS, fewest))
    each, total = torch.zeros_like(shown), torch.zeros_like(shown.T @ shown)
    for i in range(count):
        values = (numbers(look()).double() if i else shown) - center
        each, total = each + values, total + values.T @ values
    total = (total - each.T @ each / count) / ((count - 1) * len(shown))
    least = LEAST * (float(shown.var(0, correction=min(1, len(shown) - 1)).mean()) or 1.0)
    if float(total.diagonal().mean()) <= ROUNDING * least:
        return None
    values, vectors = torch.linalg.eigh(total)
    matrix = (vectors / values.clamp(min=least).sqrt()).float()
    return lambda wire: numbers(wire) @ matrix
