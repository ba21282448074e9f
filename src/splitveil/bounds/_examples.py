"""Channels whose leakage is known in closed form, for examples and tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import Split
from ..defenses.gaussian import Gaussian
from ..model import SplitModel
from .base import Channel


class Rows(nn.Module):
    """Features that are looked up: the pixels of an image spell its row number."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.register_buffer("rows", rows)
        self.rows: Tensor

    def forward(self, x: Tensor) -> Tensor:
        digits = (x.flatten(1)[:, :3] * 255).round().long()
        return self.rows[digits[:, 0] * 65536 + digits[:, 1] * 256 + digits[:, 2]]


def channel_of(features: Tensor, labels: Tensor, sigma: float, rng: torch.Generator) -> Channel:
    """Return the channel whose features (N, D) are given, with Gaussian noise."""
    numbers = torch.arange(len(features))
    digits = torch.stack([numbers // 65536, numbers // 256 % 256, numbers % 256], 1).to(torch.uint8)
    pixels = torch.zeros(len(features), 3, 4, 4, dtype=torch.uint8)
    pixels.view(len(features), -1)[:, :3] = digits
    model = SplitModel(Rows(features), nn.Identity(), defense=[Gaussian(sigma)])
    return Channel.of(model, Split(pixels, labels), rng)


def linear_channel(sigma: float, dimension: int = 8, images: int = 4000, seed: int = 0) -> tuple[Channel, float]:
    """Return a channel with Gaussian features of random covariance, and its leakage in nats.

    I(x; z_wire) = ½ log det(I + Cov(z)/σ²).
    """
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=rng, dtype=torch.float64) / dimension**0.5
    features = torch.randn(images, dimension, generator=rng, dtype=torch.float64) @ mixing.T
    covariance = mixing @ mixing.T
    exact = 0.5 * torch.logdet(torch.eye(dimension, dtype=torch.float64) + covariance / sigma**2)
    return channel_of(features.float(), torch.zeros(images, dtype=torch.long), sigma, rng), float(exact)


def linear_pixels(sigma: float, side: int = 4, outputs: int = 6, images: int = 200) -> tuple[Channel, float]:
    """Return a channel with a linear encoder W of the pixels, and d σ²/‖W‖², the inverse of its dFIL."""
    rng = torch.Generator().manual_seed(0)
    encoder = nn.Linear(3 * side * side, outputs, bias=False)
    encoder.weight.data.copy_(torch.randn(encoder.weight.shape, generator=rng))
    model = SplitModel(nn.Sequential(nn.Flatten(), encoder), nn.Identity(), defense=[Gaussian(sigma)])
    pixels = torch.randint(0, 256, (images, 3, side, side), generator=rng, dtype=torch.uint8)
    exact = 3 * side * side * sigma**2 / float(encoder.weight.detach().square().sum())
    return Channel.of(model, Split(pixels, torch.arange(images) % 2), rng), exact


def gaussian_pixels(
    encoder: Tensor, sigma: float, deviation: float = 0.1, images: int = 400, seed: int = 0
) -> tuple[Channel, Tensor, float]:
    """Return a channel of pixels N(½, deviation²) with a linear encoder W (m, d), what it leaves open, and its leakage.

    Given the wire the pixels are Gaussian with covariance (WᵀW/σ² + I/deviation²)⁻¹, whose eigenvalues (d,) are the
    second answer: their mean is the least mean squared error. The third is ½ log det(I + deviation² WWᵀ/σ²) nats.
    """
    outputs, pixels = encoder.shape
    layer = nn.Linear(pixels, outputs, bias=False)
    layer.weight.data.copy_(encoder)
    model = SplitModel(
        nn.Sequential(nn.Flatten(), layer), nn.Identity(), defense=[Gaussian(sigma)], mean=(0,), std=(1,)
    )
    rng = torch.Generator().manual_seed(seed)
    x = (0.5 + deviation * torch.randn(images, 1, 1, pixels, generator=rng)).clamp(0, 1)
    split = Split((x * 255).round().to(torch.uint8), torch.zeros(images, dtype=torch.long))
    gain = torch.linalg.svdvals(encoder.double()).square() * deviation**2 / sigma**2
    left = deviation**2 / (1 + torch.cat([gain, torch.zeros(max(0, pixels - outputs), dtype=gain.dtype)]))
    return Channel.of(model, split, rng), left, float(0.5 * gain.log1p().sum())
