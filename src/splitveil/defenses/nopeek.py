"""Distance correlation between image and feature as a penalty."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..memory import FLOAT
from ..ranges import Weight
from ..registry import plugin
from ._pairs import MATRICES, distances, squared_distances
from .base import Defense, Step


@plugin("nopeek")
class NoPeek(Defense):
    """Distance correlation: penalizes statistical dependence of the feature on the image, batch by batch.

    L = λ · dCor(x, z), or λ · log dCor (``form="log"``), of the flattened clean feature. Vepakomma et al.,
    "NoPeek: information leakage reduction to share activations", ICDM workshops 2020; dCor: Székely et al.,
    Annals of Statistics 2007. Costs two B × B distance matrices per step.

    Args:
        weight: λ ≥ 0.
        form: "plain" or "log".
        squared: take squared distances, as the published ``nopeek_ttitcombe``: the root of the RV coefficient.
        normalized: take x as the network sees it, with mean 0 and deviation 1 in each channel, as published, and not
            pixels.

    >>> NoPeek(0.5).weight
    0.5
    """

    def __init__(
        self,
        weight: Weight = 0.5,
        form: Literal["plain", "log"] = "plain",
        squared: bool = False,
        normalized: bool = False,
    ):
        super().__init__()
        self.weight, self.form = float(weight), form
        self.squared, self.normalized = squared, normalized

    def memory(self, batch: int, feature: tuple[int, ...], classes: int) -> dict[str, int]:
        return {"batch_size": MATRICES * FLOAT * batch**2}

    def loss(self, step: Step) -> Tensor | None:
        if self.weight == 0:
            return None
        x = step.x
        if self.normalized:  # the mean is the same for all images: their distances do not see it
            x = x / step.model.std[:, None, None]
        value = distance_correlation(x.flatten(1), step.z.flatten(1).float(), self.squared)
        return self.weight * (value.clamp_min(1e-6).log() if self.form == "log" else value)


def distance_correlation(x: Tensor, z: Tensor, squared: bool = False) -> Tensor:
    """Return dCor of paired rows x (B, p) and z (B, q): in [0, 1], 0 where one side is constant.

    With A, B the doubly centered matrices of pairwise distances, dCov² = mean(A∘B) and
    dCor = (dCov²(x,z) / √(dCov²(x,x) · dCov²(z,z)))^½ (the biased V-statistic). ``squared`` takes squared distances.

    Args:
        x: rows (B, p).
        z: rows (B, q).
        squared: take squared distances.

    >>> x = torch.arange(6.0)[:, None]
    >>> round(float(distance_correlation(x, 3 - 2 * x)), 5)
    1.0
    """
    between = squared_distances if squared else distances
    a, b = _centered(between(x)), _centered(between(z))
    variances = (a * a).mean() * (b * b).mean()
    square = (a * b).mean() / variances.clamp_min(torch.finfo(a.dtype).tiny).sqrt()
    # The root has no derivative at 0, where the gradient of a constant feature is 0.
    positive = (square > 0) & (variances > 0)
    return torch.where(positive, torch.where(positive, square, 1).sqrt(), 0)


def _centered(d: Tensor) -> Tensor:
    rows = d.mean(0)  # d is symmetric
    return d - rows[:, None] - rows[None] + rows.mean()
