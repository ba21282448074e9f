"""Known offsets that the attacks take for drowned by the noise beside them, where others may tell them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..attacks._drowned import APART, drowned, units
from ..attacks._offsets_learned import MOST_ENTRIES, MOST_PAIRS
from ..defenses._law import Law
from ..defenses.base import Stack
from ..model import SplitModel

LOOKS = 256
"""Looks at the noise beside the offsets: half of them find how to tell two offsets, the others how well it does."""
RIDGES = (1e-6, 1e-3, 0.1, 10.0)
"""Multiples of the noise's mean variance that are added to its covariance, which so few looks do not determine."""
MARGIN = 1.5
"""How much better than the attacks demand offsets must be told, so that chance raises no flag."""
FEW = 64
"""Most offsets that are looked at."""


def untold(model: SplitModel, x: Tensor, law: Law) -> bool:
    """Return whether whoever knows the law of the noise tells the offsets, and the attacks do not try to.

    The attacks compare entries by the variance of each; noise that is correlated between entries may leave directions
    free in which offsets differ. Nothing is said where entries are hidden.

    Args:
        model: with its defense.
        x: pixels of one image, (1, C, H, W), in [0, 1].
        law: of one wire, as attacks get it.
    """
    if law.offsets is None or law.visible is not None or law.kept is not None or len(law.offsets) < 2:
        return False
    offsets, unit = law.offsets.flatten(1).double(), units(law)
    few, noise = offsets[:FEW], _noise(model, x)
    taken = drowned(few / unit, float((noise.var(0) / unit.square()).mean()))
    if len(offsets) ** 2 * offsets.shape[1] > MOST_PAIRS or offsets.shape[1] > MOST_ENTRIES:
        return not taken
    return taken and apart(few, noise) > MARGIN * APART


def apart(offsets: Tensor, noise: Tensor) -> float:
    """Return how far the nearest two offsets are apart, in deviations of the difference of two draws of the noise.

    It is less than whoever knows the covariance Σ of the noise reaches, √(δᵀ Σ⁻¹ δ / 2): the direction for each
    difference δ is found on half of the draws, and judged by the others.

    Args:
        offsets: (K, m).
        noise: draws, (N, m).

    >>> noise = torch.randn(200, 1, generator=torch.Generator().manual_seed(0)).expand(200, 2)
    >>> along, across = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    >>> apart(along, noise) < 1, apart(across, noise) > 100
    (True, True)
    """
    noise, offsets = noise.double(), offsets.double()
    one, other = (half - half.mean(0) for half in noise.chunk(2))
    rows, columns = torch.triu_indices(len(offsets), len(offsets), 1, device=offsets.device)
    between, best = offsets[rows] - offsets[columns], offsets.new_zeros(len(rows))
    mean, inner = one.square().mean().clamp(min=1e-20), one @ one.T
    for ridge in RIDGES:
        system = inner + ridge * mean * len(one) * torch.eye(len(one)).to(inner)
        along = between - torch.linalg.solve(system, one @ between.T).T @ one
        reach, spread = (along * between).sum(1).abs(), (other @ along.T).std(0)
        best = torch.maximum(best, reach / (2**0.5 * spread).clamp(min=1e-12))
    return float(best.min())


def _noise(model: SplitModel, x: Tensor) -> Tensor:
    """Return wires of one image without the offset, in which only the noise differs, (LOOKS, m)."""
    z = model.features(x)
    parts: list[Any] = list(model.defense) if isinstance(model.defense, Stack) else [model.defense]
    before, beside = Law(), []
    for part in parts:
        after = part.law(z, before)
        if before.offsets is not None or after.offsets is None:
            beside.append(part)
        before = after
    rng = torch.Generator(z.device).manual_seed(0)
    return Stack(*beside).on_wire(z.expand(LOOKS, *z.shape[1:]), rng).flatten(1).double()
