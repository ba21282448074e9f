"""Densities of images: a Gaussian, and a diffusion model's of images with a little noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..attacks._ddpm import Ddpm, score
from ..attacks._denoiser import GaussianModel
from ..runtime import Runtime
from ._gaussians import FULL_UP_TO
from ._smooth import pixels_of
from .base import Channel

ROUNDING = 1 / (12 * 255**2)
"""Variance of the rounding to 8 bits, below which a variance of pixels says nothing."""
WEIGHTS = (0.001, 0.01, 0.1)
"""Weights of the diagonal that are tried in `shrunk`, beside the diagonal alone."""
AT_ONCE = 500
ELEMENTS, FEWEST = 2**25, 200
"""Most pixels of all images that a Gaussian is fitted to, and fewest images all the same."""


class GaussianPrior:
    """Images as a Gaussian, in coordinates where its covariance is nearly diagonal.

    The coordinates are those of an orthonormal basis (cosine transform, principal colors), so that squared errors are
    those of the pixels. The covariance is the one of the ``fit`` images, drawn to its diagonal by the weight that makes
    the ``choose`` images most likely; beyond `FULL_UP_TO` pixels it is the diagonal.

    Attributes:
        count: number of images that it was fitted to.
        scale: standard deviation of each coordinate, (d,).
        factor: Cholesky factor of the correlation matrix, (d, d), float64; None: it is the identity.
        about: sentence that says what the prior is.

    Args:
        channel: model and images.
        rng: generator of noise, and of the choice of images where there are too many.
        variance: of noise that is thought to be on the pixels.
    """

    def __init__(self, channel: Channel, rng: torch.Generator, variance: float = ROUNDING):
        most = max(FEWEST, ELEMENTS // channel.fit.images[0].numel())
        x = pixels_of(channel, "fit", most, rng)
        self.count, self.basis = len(x), GaussianModel(x)
        self.scale = (self.basis.variance.flatten() + variance).sqrt()
        w, weight = self.coordinates(x) / self.scale, 1.0
        self.factor: Tensor | None = None
        if w.shape[1] <= FULL_UP_TO:
            # Single precision is enough for correlations, and twice as fast.
            correlation = (w.T @ w / len(w)).fill_diagonal_(1.0)  # the noise is on the diagonal too
            noisy = pixels_of(channel, "choose", most, rng)
            noisy += variance**0.5 * torch.randn(noisy.shape, generator=rng, device=noisy.device)
            choose = self.coordinates(noisy) / self.scale
            # Nearly singular matrices are left out: `cholesky_ex` says so in place of an error.
            weight = max((*WEIGHTS, 1.0), key=lambda weight: _likelihood(correlation, weight, choose))
            if weight < 1:
                self.factor = torch.linalg.cholesky(shrunk(correlation.double(), weight))
        self.about = (
            f"a Gaussian with the covariance of {len(x):,} images, of which {100 * weight:g} % is its diagonal "
            "in the cosine transform"
        )

    def coordinates(self, x: Tensor) -> Tensor:
        """Return the coordinates of images (B, C, H, W) about their mean, (B, d)."""
        return self.turned(x - self.basis.mean)

    def turned(self, x: Tensor) -> Tensor:
        """Return the coordinates of differences, scores and other vectors (B, C, H, W), (B, d)."""
        return self.basis.transform(x).flatten(1)

    def precision(self) -> Tensor:
        """Return E[s sᵀ] of the score s in units of ``scale``, (d, d); its diagonal (d,) where it is one."""
        return torch.ones_like(self.scale) if self.factor is None else torch.cholesky_inverse(self.factor).float()

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density of each image (B, C, H, W), (B,), in nats."""
        w = self.coordinates(x).double() / self.scale
        logs = self.scale.log().sum() + 0.5 * w.shape[1] * math.log(2 * math.pi)
        if self.factor is not None:
            w = torch.linalg.solve_triangular(self.factor, w.T, upper=False).T
            logs = logs + self.factor.diagonal().log().sum()
        return -0.5 * w.square().sum(1) - logs


class DenoiserPrior:
    """Images with a little Gaussian noise, whose score a denoiser knows (Tweedie's formula).

    ∇ log p(x̃) = (E[x|x̃] − x̃)/τ² for x̃ = x + N(0, τ²), τ that of the diffusion model's level.

    Attributes:
        deviation: τ, in pixels of [0, 1].

    Args:
        channel: model and images: the denoiser learns on ``fit`` and is chosen on ``choose``.
        settings: of the diffusion model.
        level: of noise, of 1,000.
        rng: generator of its training.
    """

    def __init__(self, channel: Channel, settings: Ddpm, level: int, rng: torch.Generator):
        self.denoiser, _ = settings.learn(channel.fit, channel.choose, rng, Runtime())
        self.level, self.alpha = level, self.denoiser.alpha[level]
        self.deviation = float((1 / self.alpha - 1).sqrt()) / 2

    @torch.no_grad()
    def noisy(self, x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return images x̃ of pixels x (B, C, H, W), and their scores, both (B, C, H, W)."""
        found = x + self.deviation * torch.randn(x.shape, generator=rng, device=x.device)
        level = torch.tensor(self.level, device=x.device)
        seen = [self.alpha.sqrt() * (2 * part - 1) for part in found.split(AT_ONCE)]
        scores = [score(self.denoiser(part, level), self.alpha) for part in seen]
        return found, 2 * self.alpha.sqrt() * torch.cat(scores)


def shrunk(matrix: Tensor, weight: float) -> Tensor:
    """Return (1 − weight) · matrix + weight · its diagonal.

    >>> shrunk(torch.ones(2, 2), 0.5).tolist()
    [[1.0, 0.5], [0.5, 1.0]]
    """
    return (1 - weight) * matrix + weight * matrix.diagonal().diag()


def _likelihood(correlation: Tensor, weight: float, w: Tensor) -> float:
    if weight == 1:
        return float(-0.5 * w.square().sum(1).mean())
    factor, failed = torch.linalg.cholesky_ex(shrunk(correlation, weight))
    if failed:
        return -math.inf
    rest = torch.linalg.solve_triangular(factor, w.T, upper=False)
    return float(-0.5 * rest.square().sum(0).mean() - factor.diagonal().log().sum())
