"""Water-filling in directions that are products of directions of channels and of places, in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ._waterfilling import FLOOR, filled, floored, roots


@dataclass(frozen=True)
class Products:
    """The coordinates Pᵀ Z Q of a centered feature Z of C channels and S places, and what each of them is worth.

    Attributes:
        mean: of the features, (C · S,).
        channels: Pᵀ, (C, C). places: Qᵀ, (S, S).
        variance: v_i of each coordinate, (C · S,).
        fisher: the task's Fisher information about it, in nats, (C · S,).
        explained: g_i, the part of the images' variance that it explains, (C · S,), see `without_chance`.
    """

    mean: Tensor
    channels: Tensor
    places: Tensor
    variance: Tensor
    fisher: Tensor
    explained: Tensor

    def noise(self, mu: float, sigma: float) -> Tensor:
        """Return the variance of the noise on each coordinate: v_i n_i, and what σ in every entry of Z is there.

        Args:
            mu: price of a nat, as `filled` takes it.
            sigma: standard deviation σ > 0, in units of the feature.
        """
        floor = torch.outer(self.channels.square().sum(1), self.places.square().sum(1)).flatten()
        return self.variance * self._relative(mu) + sigma**2 * floor

    def _relative(self, mu: float) -> Tensor:
        """Return n_i, beside signals of variance 1."""
        return filled(self.explained, floored(self.fisher * self.variance), mu)

    def loss(self, mu: float) -> float:
        """Return the task's loss by the noise, ½ Σ f_i n_i: in nats, to second order.

        Args:
            mu: price of a nat.
        """
        return float((self.fisher * self.variance * self._relative(mu)).sum()) / 2


def factor_directions(covariance: Tensor, fisher: Tensor) -> Tensor:
    """Return Uᵀ C^-½, whose rows are coordinates of variance 1 that a factor of the Fisher information sorts.

    (C₁ ⊗ C₂)^½ (F₁ ⊗ F₂) (C₁ ⊗ C₂)^½ is the product of the factors' own, and so are its eigenvectors. A direction
    without variance keeps a coordinate of its own, so that the matrix can be inverted.

    Args:
        covariance: factor of C for the channels or the places, (n, n).
        fisher: the same factor of F, (n, n).

    >>> eye = torch.eye(2, dtype=torch.float64)
    >>> factor_directions(4 * eye, torch.tensor([2.0, 1.0]).double().diag()).abs()
    tensor([[0.0000, 0.5000],
            [0.5000, 0.0000]], dtype=torch.float64)
    """
    least = FLOOR * torch.linalg.eigvalsh(covariance)[-1]
    root, inverse = roots(covariance + least * torch.eye(len(covariance), dtype=covariance.dtype) * 10)
    _, u = torch.linalg.eigh(root @ fisher @ root)
    return u.T @ inverse
