"""The most noise, the same for every value of a wire, that a loss of accuracy allows at a cut."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data import Split, to_float
from ..data.protocol import some
from ..defenses.gaussian import Gaussian
from ..hardening.search import SHORT, adapted, noisy_accuracy, put_on
from ..model import SplitModel

LEAST, MOST = 0.01, 10.0
"""Standard deviations of the noise between which is searched, in units of the feature's own."""
STEPS = 6
"""Bisections: they tell standard deviations apart that differ by an eighth."""
LOOKED_AT, BATCH = 1000, 250
"""Images from which the feature's deviation is taken, and how many at once."""


@dataclass(frozen=True)
class Tried:
    """One strength of the noise.

    Attributes:
        sigma: standard deviation.
        accuracy: on the validation images, with the tail retrained for this noise, in [0, 1].
        accepted: whether the accuracy is high enough.
    """

    sigma: float
    accuracy: float
    accepted: bool


@dataclass(frozen=True)
class Search:
    """The conditions under which noise is searched, the same at every cut.

    Attributes:
        train: images for the tails.
        validate: images on which accuracy is compared.
        seed: of all that is drawn.
        augmentation: arguments of `splitveil.data.augment` for the tails' images.
        bf16: compute the tails' training under autocast to bfloat16.
    """

    train: Split
    validate: Split
    seed: int
    augmentation: dict[str, Any]
    bf16: bool

    def run(
        self, model: SplitModel, least: float, show: Callable[[], None] = lambda: None
    ) -> tuple[SplitModel | None, list[Tried]]:
        """Return the model with the most noise that is accepted, and what was tried.

        Each step halves the bracket on a logarithmic scale, and retrains the tail of the last accepted step for one
        pass over the training images.

        Args:
            model: trained, without a defense; its encoder stays as it is.
            least: accuracy that must be reached, in [0, 1].
            show: called after each step.

        Returns:
            None in place of the model where all noise that was tried costs more.
        """
        looked_at = some(self.train, LOOKED_AT, torch.Generator().manual_seed(self.seed))
        unit, low, high = deviation(model, looked_at.images), LEAST, MOST
        best, tail, tried = None, model.tail, []
        for _ in range(STEPS):
            middle = math.sqrt(low * high)
            noisy = put_on(model, Gaussian(middle * unit))
            turned = {"augmentation": self.augmentation, "bf16": self.bf16, "recipe": SHORT}
            trained, accuracy = adapted(noisy, tail, self.train, self.seed, self._accuracy, **turned)
            accepted = accuracy >= least
            tried.append(Tried(middle * unit, accuracy, accepted))
            if accepted:
                best, tail, low = trained, trained.tail, middle
            else:
                high = middle
            show()
        return best, tried

    def _accuracy(self, model: SplitModel) -> float:
        return noisy_accuracy(model, self.validate, self.seed)


@torch.no_grad()
def deviation(model: SplitModel, images: Tensor) -> float:
    """Return the root mean square of the feature's deviation from its mean, over images and values.

    Args:
        model: split model.
        images: uint8 (N, C, S, S).
    """
    first = second = torch.zeros((), dtype=torch.float64)
    for part in images.split(BATCH):
        z = model.features(to_float(part.to(model.mean.device))).flatten(1).double().cpu()
        first, second = first + z.sum(0), second + z.square().sum(0)
    variance = second / len(images) - (first / len(images)).square()
    # A feature that is the same for every image has no unit of its own.
    return float(variance.clamp(min=0).mean()) ** 0.5 or 1.0
