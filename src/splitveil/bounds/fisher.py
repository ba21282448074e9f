"""Fisher information leakage: how sharply the wire answers to a small change of the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..data import to_float
from ..ranges import Count
from ..registry import plugin
from ..statistics.intervals import Interval
from .base import Bound, BoundError, Channel, Estimate

UNBIASED = "The attacker is unbiased: averaged over the noise it answers each image itself. No attack on images is."
SMOOTH = "The encoder is differentiable."
KINKS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.MaxPool2d, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid)
BATCH = 100


@plugin("fisher")
class FisherBound(Bound):
    """Bound the error of unbiased attackers by the Fisher information of the wire about the pixels.

    dFIL(x) = tr(Jᵀ Σ⁻¹ J)/d with J the derivative of the wire's mean by the d pixels; an unbiased attacker's mean
    squared error on x is at least 1/dFIL(x) (Cramér and Rao; Maeng et al., "Bounding the invertibility of
    privacy-preserving instance encoding using Fisher information leakage", NeurIPS 2023). The trace is estimated from
    Jacobian-vector products with random signs (Hutchinson), and its mean over the images stands in the bound, since
    1/mean ≤ mean of 1/dFIL.

    Args:
        directions: random directions for each image.
        images: at most so many of the held-out images.

    Raises:
        BoundError: the wire's noise is not Gaussian, there is none, or it differs between images.

    >>> from splitveil.bounds._examples import linear_pixels
    >>> channel, exact = linear_pixels(sigma=0.5)  # 1/dFIL of a linear encoder is d σ²/‖W‖²
    >>> (found,) = FisherBound(directions=50).estimate(channel, torch.Generator().manual_seed(0))
    >>> abs(found.value / exact - 1) < 0.05
    True
    """

    def __init__(self, directions: Count = 4, images: Count = 500):
        self.directions, self.images = directions, images

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        law = channel.conditional("held_out")
        if bool((law.variance != law.variance[:1]).any()):
            raise BoundError("the noise differs between images; the Fisher information then has a further term")
        pixels = channel.held_out.images[: self.images]
        leakage = torch.cat([self._leakage(channel, x, law.variance[0], rng) for x in pixels.split(BATCH)])
        mean, error = float(leakage.mean()), float(leakage.std() / len(leakage) ** 0.5)
        if mean == 0:
            raise BoundError("the wire does not change with the image at all: no finite error can be named")
        interval = Interval(1 / mean, 1 / (mean + 1.96 * error), 1 / max(mean - 1.96 * error, mean / 100))
        kinks = sorted({type(m).__name__ for m in channel.model.encoder.modules() if isinstance(m, KINKS)})
        smooth = f"{SMOOTH} It has {', '.join(kinks)}: it is so nearly everywhere only." if kinks else SMOOTH
        about = f"dFIL {mean:.3g}, unbiased attackers only"
        return [Estimate(1 / mean, "lower", "mse", about, (UNBIASED, smooth), len(leakage), interval)]

    @torch.no_grad()
    def _leakage(self, channel: Channel, images: Tensor, variance: Tensor, rng: torch.Generator) -> Tensor:
        x = to_float(images.to(channel.device))
        total = torch.zeros(len(x), device=x.device, dtype=torch.float64)
        for _ in range(self.directions):
            signs = torch.randint(0, 2, x.shape, generator=rng, device=x.device) * 2.0 - 1
            change = torch.func.jvp(self._mean(channel), (x,), (signs,))[1]
            total += (change.flatten(1).double().square() / variance).sum(1)
        return total / self.directions / x[0].numel()

    def _mean(self, channel: Channel):
        defense = channel.model.defense

        def mean(x: Tensor) -> Tensor:
            z = channel.model.features(x)
            return defense.gaussian_law(z, torch.zeros_like(z))[0]  # type: ignore[union-attr, operator]

        return mean
