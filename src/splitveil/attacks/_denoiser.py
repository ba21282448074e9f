"""The network of a small diffusion model: the noise in a noisy image, from a Gaussian model and a U-Net."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, silu

LEVELS = 1000
Level = Annotated[int, Field(ge=0, lt=LEVELS)]


def alphas(levels: int = LEVELS) -> Tensor:
    """Return ᾱ_t, the part of the image's variance left at level t, (levels,): from nearly 1 down to nearly 0.

    The cosine schedule, ᾱ_t = h(t)/h(0), h(t) = cos²((t/T + 0.008)/1.008 · π/2) with steps of at most 0.999 (Nichol
    and Dhariwal 2021, eq. 17): x_t = √ᾱ_t y + √(1 − ᾱ_t) ε for images y in [-1, 1].
    """
    h = (
        ((torch.arange(levels + 1, dtype=torch.float64, device="cpu") / levels + 0.008) / 1.008 * math.pi / 2)
        .cos()
        .square()
    )
    return (h[1:] / h[:-1]).clamp(min=0.001).cumprod(0).float()


class GaussianModel(nn.Module):
    """Images as a Gaussian with uncorrelated coefficients of the cosine transform, in the images' principal colors.

    Nearly the covariance of natural images, and exact for white ones: what a network need not learn.

    Args:
        y: images (N, C, H, W) in [-1, 1].
    """

    mean: Tensor
    down: Tensor
    across: Tensor
    colors: Tensor
    variance: Tensor

    def __init__(self, y: Tensor):
        super().__init__()
        self.register_buffer("mean", y.mean(0))
        self.register_buffer("down", waves(y.shape[2], y.device))
        self.register_buffer("across", waves(y.shape[3], y.device))
        rest = y - self.mean
        self.register_buffer("colors", torch.linalg.eigh(torch.einsum("bcij,bdij->cd", rest, rest))[1].T)
        self.register_buffer("variance", self.transform(rest).square().mean(0))

    def transform(self, x: Tensor) -> Tensor:
        """Return the coefficients of x (B, C, H, W) in an orthonormal basis."""
        return self.down @ torch.einsum("kc,bcij->bkij", self.colors, x) @ self.across.T

    def inverse(self, x: Tensor) -> Tensor:
        """Return the images that have these coefficients."""
        return torch.einsum("kc,bkij->bcij", self.colors, self.down.T @ x @ self.across)

    def forward(self, x: Tensor, alpha: Tensor) -> Tensor:
        """Return E[ε | x_t] in closed form, √(1 − ᾱ)(ᾱΣ + (1 − ᾱ)I)⁻¹(x_t − √ᾱ μ)."""
        gain = (1 - alpha).sqrt() / (alpha * self.variance + 1 - alpha)
        return self.inverse(gain * self.transform(x - alpha.sqrt() * self.mean))


def waves(size: int, device: torch.device) -> Tensor:
    """Return the cosine waves of ``size`` pixels, orthonormal rows (S, S)."""
    k, n = torch.arange(size, device=device)[:, None], torch.arange(size, device=device)
    found = (math.pi / size * (n + 0.5) * k).cos() * math.sqrt(2 / size)
    found[0] /= math.sqrt(2)
    return found


class Denoiser(nn.Module):
    """ε_θ(x_t, t) of noisy images (B, C, H, W): the Gaussian model's answer plus a U-Net's correction, at first zero.

    Ho et al. 2020, with a U-Net without attention for images of any size; it sees x_t and the Gaussian model's guess
    of the image. The correction is in units of what that model leaves unexplained at the level (as in Karras et al.
    2022).

    Args:
        y: images (N, C, H, W) in [-1, 1] for the Gaussian model. width: channels at full size; two halvings double it.
    """

    alpha: Tensor

    def __init__(self, y: Tensor, width: int):
        super().__init__()
        self.gaussian = GaussianModel(y)
        self.register_buffer("alpha", alphas().to(y.device))
        side, widths, colors = min(y.shape[2:]), [width], y.shape[1]
        while side > 4 and len(widths) < 3:
            side, widths = math.ceil(side / 2), [*widths, 2 * width]
        self.embed = nn.Sequential(nn.Linear(16, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width), nn.SiLU())
        self.first = nn.Conv2d(2 * colors, width, 3, padding=1)
        self.down = nn.ModuleList(Block(a, b, 4 * width) for a, b in zip([width, *widths], widths, strict=False))
        self.middle = Block(widths[-1], widths[-1], 4 * width)
        wider = [*widths[1:], widths[-1]]
        self.up = nn.ModuleList(Block(a + b, b, 4 * width) for a, b in zip(wider, widths, strict=True))
        self.last = nn.Conv2d(width, colors, 3, padding=1)
        for parameter in self.last.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise expected in x at level t, () or (B,)."""
        alpha = self.alpha[t].view(-1, 1, 1, 1)
        noise, variance, mean = self.gaussian(x, alpha), self.gaussian.variance, self.gaussian.mean
        typical = variance.mean().clamp(min=1e-6)
        guess = ((x - (1 - alpha).sqrt() * noise) / alpha.sqrt() - mean) / typical.sqrt()
        seen = (x - alpha.sqrt() * mean) / (alpha * typical + 1 - alpha).sqrt()
        angles = (alpha / (1 - alpha)).log().view(-1, 1) * torch.logspace(-1.3, 0.5, 8, device=x.device)
        level = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        h, skips = self.first(torch.cat([seen, guess], 1)), []
        for i, block in enumerate(self.down):
            h = block(avg_pool2d(h, 2, ceil_mode=True) if i else h, level)
            skips.append(h)
        h = self.middle(h, level)
        for block, skip in zip(reversed(self.up), reversed(skips), strict=True):
            h = block(torch.cat([interpolate(h, skip.shape[2:]), skip], 1), level)
        unexplained = (alpha * variance / (alpha * variance + 1 - alpha)).mean((1, 2, 3), keepdim=True).sqrt()
        return noise + unexplained * self.last(silu(h))


class Block(nn.Module):
    """Residual block whose second half is scaled and shifted by the level."""

    def __init__(self, inputs: int, outputs: int, embedding: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(math.gcd(8, c), c) for c in (inputs, outputs))
        self.convs = nn.ModuleList(nn.Conv2d(c, outputs, 3, padding=1) for c in (inputs, outputs))
        self.level = nn.Linear(embedding, 2 * outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        scale, shift = self.level(level)[:, :, None, None].chunk(2, 1)
        h = self.norms[1](self.convs[0](silu(self.norms[0](x)))) * (1 + scale) + shift
        return self.skip(x) + self.convs[1](silu(h))
