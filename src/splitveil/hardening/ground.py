"""The ground on which noise is searched for: what is known of a model, and which noise follows from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..defenses._waterfilling import Directions, Statistics
from ..defenses._waterfilling_kronecker import Products
from ..defenses.base import Defense
from ..defenses.waterfill import Waterfill
from ..defenses.waterfill_kronecker import WaterfillKronecker
from ..model import SplitModel
from .gathering import gather, linear_error
from .gathering_kronecker import gather_products
from .regression import Sample

MOST = 4096
"""Most values of a wire whose covariance is solved whole."""


@dataclass(frozen=True)
class Noise:
    """Noise of one strength.

    Attributes:
        defense: ready to be put on the wire.
        setting: its first one: μ.
        sent: k, the numbers on the wire.
        linear_error: of a linear attacker, per pixel: the best one, or on a wide wire a regression from some images.
    """

    defense: Defense
    setting: float
    sent: int
    linear_error: float


class Ground(Protocol):
    """What a search must be able to ask.

    Attributes:
        deviation: root mean square of the feature's deviation from its mean.
        sharpness: trace of the Fisher information, in nats per squared unit of the feature.
    """

    deviation: float
    sharpness: float

    def loss(self, mu: float) -> float:
        """Return the task's loss by the noise of μ, in nats, to second order."""
        ...

    def noise(self, mu: float, sigma: float) -> Noise:
        """Return the noise of μ, with at least σ in every direction."""
        ...


class Whole:
    """The ground of a wire whose covariance is solved whole.

    Args:
        statistics: of the model.
        pixels: values of an image.
    """

    def __init__(self, statistics: Statistics, pixels: int):
        self.statistics, self.pixels = statistics, pixels
        self.directions = Directions.of(statistics)
        self.deviation = float(statistics.covariance.diagonal().mean()) ** 0.5
        self.sharpness = float(statistics.fisher.diagonal().sum())

    def loss(self, mu: float) -> float:
        """Return the task's loss by the noise of μ, in nats, to second order."""
        return self.directions.loss(mu)

    def noise(self, mu: float, sigma: float) -> Noise:
        """Return the noise of μ, with at least σ in every direction."""
        defense = Waterfill(mu, sigma)
        defense._solve(self.statistics, self.directions)
        matrix = defense._have("matrix").double()
        return Noise(defense, mu, len(matrix), self.linear_error(matrix))

    def linear_error(self, matrix: Tensor) -> float:
        """Return the error per pixel of the best linear attacker on A(z − mean) + N(0, I)."""
        return linear_error(self.statistics, matrix, self.pixels)


class Factored:
    """The ground of a wide wire, by products of directions. The linear attacker is a regression from some images.

    Args:
        products: of the model.
        sample: some features, in the coordinates of the products.
    """

    def __init__(self, products: Products, sample: Sample):
        self.products, self.sample = products, sample
        back = [torch.linalg.inv(factor).square().sum(0) for factor in (products.channels, products.places)]
        entries = torch.outer(*back).flatten()
        self.deviation = float((products.variance * entries).sum() / len(entries)) ** 0.5
        forward = torch.outer(products.channels.square().sum(1), products.places.square().sum(1)).flatten()
        self.sharpness = float((products.fisher * forward).sum())

    def loss(self, mu: float) -> float:
        """Return the task's loss by the noise of μ, in nats, to second order."""
        return self.products.loss(mu)

    def noise(self, mu: float, sigma: float) -> Noise:
        """Return the noise of μ, with at least σ in every direction."""
        defense = WaterfillKronecker(mu, sigma)
        defense._solve(self.products)
        kept = defense._have("kept")
        return Noise(defense, mu, len(kept), self.sample.error(kept, self.products.noise(mu, sigma)[kept.cpu()]))


def ground(model: SplitModel, images: Tensor, rng: torch.Generator, before: Defense | None) -> Ground:
    """Return what is known of a model: whole up to `MOST` values of its wire, by products beyond.

    Args:
        model: trained.
        images: uint8 (N, C, S, S).
        rng: generator of the noise and of the classes that are drawn.
        before: defenses that stay in front of the noise.
    """
    if math.prod(model.wire_shape) <= MOST:
        return Whole(gather(model, images, rng, before=before), images[0].numel())
    return Factored(*gather_products(model, images, rng, before))
