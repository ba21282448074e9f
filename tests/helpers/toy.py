"""The linear-Gaussian problem, whose best possible reconstruction is known in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from splitveil.config import Spec
from splitveil.data import Split, to_float
from splitveil.defenses.base import Stack
from splitveil.defenses.gaussian import Gaussian
from splitveil.model import SplitModel

SIDE, ETA, MEAN = 4, 0.08, 0.5  # images far enough from 0 and 1 that clamping them changes nothing
D = 3 * SIDE * SIDE
VARIANCE = ETA**2 + (1 / 255) ** 2 / 12  # rounding to 8 bits adds its own


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int, seed: int) -> Split:
    """x ~ N(0.5, η² I), as 8-bit images of 4×4 pixels."""
    pixels = MEAN + ETA * torch.randn(n, 3, SIDE, SIDE, generator=rng(seed))
    return Split((pixels * 255).round().clamp(0, 255).to(torch.uint8), torch.zeros(n, dtype=torch.long))


def model(m: int, sigma: float, shape: tuple[int, ...] | None = None) -> tuple[SplitModel, Tensor]:
    """e = Wx + N(0, σ²I) of ``m`` numbers, in ``shape``, and W (m, d)."""
    linear = nn.Linear(D, m, bias=False)
    linear.weight.data = torch.randn(m, D, generator=rng(1)) / D**0.5
    encoder = nn.Sequential(nn.Flatten(), linear, nn.Unflatten(1, shape or (m,)))
    return SplitModel(encoder, nn.Flatten(), defense=Gaussian(sigma), layout="channels_first"), linear.weight.data


class Rectified(nn.Module):
    """Features of a layer behind a ReLU, about half of them 0."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        z = self.layer(x)
        return (z - z.mean()).relu()


def defended(*specs: str, relu: bool = False) -> SplitModel:
    """The linear network of 48 numbers on the wire behind these defenses."""
    found, _ = model(48, 0.0, (12, 2, 2))
    found.defense = Stack(*(Spec.model_validate(spec).resolve("defenses").make("defenses") for spec in specs))
    if relu:
        found.encoder = Rectified(found.encoder)
    return found.eval()


def affine(*, feature_shape: tuple[int, ...], image_shape: tuple[int, int, int]) -> nn.Module:
    """A decoder of one layer: the best one is nearly its, and a training finds it in a few hundred steps."""
    numbers = math.prod(feature_shape)
    standardized = nn.Flatten(), nn.BatchNorm1d(numbers)
    return nn.Sequential(
        *standardized, nn.Linear(numbers, math.prod(image_shape)), nn.Unflatten(1, image_shape), nn.Sigmoid()
    )


def posterior_mean(weight: Tensor, wire: Tensor, sigma: float) -> Tensor:
    """E[x | e] = μ + (WᵀW + σ²/η² I)⁻¹ Wᵀ (e − Wμ), as images (B, 3, 4, 4)."""
    w = weight.double()
    gram = w.T @ w + sigma**2 / VARIANCE * torch.eye(D).double()
    mean = torch.full((D,), MEAN).double()
    found = mean + torch.linalg.solve(gram, w.T @ (wire.flatten(1).double() - w @ mean).T).T
    return found.view(-1, 3, SIDE, SIDE).float()


def mmse(weight: Tensor, sigma: float) -> float:
    """(1/d) Tr (WᵀW/σ² + I/η²)⁻¹."""
    w = weight.double()
    return float(torch.linalg.inv(w.T @ w / sigma**2 + torch.eye(D).double() / VARIANCE).trace()) / D


def best_of_noise(weight: Tensor, variance: Tensor) -> float:
    """(1/d) Tr (Wᵀ V⁻¹ W + I/η²)⁻¹: of the best linear attacker, and of the best one where the noise is Gaussian."""
    w = weight.double()
    inner = w.T @ (w / variance.flatten().double()[:, None]) + torch.eye(D).double() / VARIANCE
    return float(torch.linalg.inv(inner).trace()) / D


def pixels(split: Split) -> Tensor:
    return to_float(split.images)
