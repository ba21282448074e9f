"""The error that the entropy of the images leaves open: Theorem 1 of arXiv 2503.00383."""

from __future__ import annotations

import math

import torch

from ..ranges import Positive
from ..registry import plugin
from ..statistics.intervals import Interval, student_over_normal
from ._cross_entropy import SIGNIFICANCE
from ._prior import GaussianPrior
from ._smooth import pixels_of
from .base import Bound, Channel, Estimate
from .mixture import MixtureBound

MOST = 2000
"""Held-out images of which the entropy is a mean."""
NO_BOUND = (
    "It is no bound: the entropy of the images is that of {}, which is at least the true one. Only the ratio of two "
    "models on the same images says something, see `relative_factor`."
)
NOISY = (
    "The entropy is that of pixels with noise of {:g}, as that of 8-bit pixels is not defined, and the error is that "
    "on these pixels: {:.2g} of it is the noise's own."
)


@plugin("entropy")
class EntropyError(Bound):
    """Estimate the least error of an attacker from the entropy of the images and the leakage.

    MSE ≥ exp(2 H(x|z_wire)/d)/(2πe) for d pixels, H(x|z_wire) = H(x) − I(x; z_wire) (Theorem 1 of arXiv 2503.00383).
    The entropy is that of a Gaussian, the largest with its covariance, as a mean over held-out images; the leakage is
    the upper bound of `mixture`. An upper bound in the place of H(x) makes no lower bound on the error: the value is a
    point, of use beside that of another model on the same images.

    Args:
        smoothing: standard deviation of the noise that is thought to be on the pixels.

    Raises:
        BoundError: the wire's noise is not Gaussian, or there is none.

    >>> from splitveil.bounds._examples import linear_pixels
    >>> (found,) = EntropyError().estimate(linear_pixels(sigma=0.5)[0], torch.Generator().manual_seed(0))
    >>> found.kind, 0.01 < found.value < 1 / 12
    ('point', True)
    """

    revision = 2  # a leakage that has no end below 0

    def __init__(self, smoothing: Positive = 0.1):
        self.smoothing = smoothing

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        (leakage,) = MixtureBound().estimate(channel, rng)
        images = GaussianPrior(channel, rng, self.smoothing**2)
        x = pixels_of(channel, "held_out", MOST, rng)
        x = x + self.smoothing * torch.randn(x.shape, generator=rng, device=x.device)
        entropy, pixels = -images.log_density(x), x[0].numel()
        error = SIGNIFICANCE * student_over_normal(len(entropy)) * float(entropy.std()) / len(entropy) ** 0.5
        assert leakage.interval is not None
        nats = float(entropy.mean()) - leakage.value
        low = nats - error - (leakage.interval.hi - leakage.value)
        high = nats + error + (leakage.value - leakage.interval.lo)
        interval = Interval(*(error_bound(h, pixels) for h in (nats, low, high)))
        about = f"Theorem 1 with the entropy of a Gaussian, relative only, {leakage.value:.4g} nats leaked"
        noisy = NOISY.format(self.smoothing, self.smoothing**2)
        told = (NO_BOUND.format(images.about), noisy, *leakage.assumptions)
        return [Estimate(interval.mean, "point", "mse", about, told, leakage.images, interval)]


def error_bound(nats: float, pixels: int) -> float:
    """Return exp(2h/d)/(2πe), the least mean squared error at a conditional entropy h (Theorem 1).

    Args:
        nats: h = H(x|z_wire), or an estimate of it; the value is a bound only where h is at most H(x|z_wire).
        pixels: d.

    >>> gaussian = 0.5 * math.log(2 * math.pi * math.e * 0.04)  # entropy of N(0, 0.2²)
    >>> round(error_bound(3 * gaussian, pixels=3), 6)
    0.04
    """
    return math.exp(2 * nats / pixels) / (2 * math.pi * math.e)


def relative_factor(difference: float, pixels: int) -> float:
    """Return exp(2ΔI/d), by which the bound of Theorem 1 on the error differs between two models.

    It is relative: the images' entropy is in both bounds and cancels, so it need not be known; how large either bound
    is remains unsaid, and so does what attacks do. Both models must have been examined on the same images.

    Args:
        difference: ΔI in nats, the leakage of the first model less that of the second.
        pixels: d.

    Returns:
        The bound of the second model over that of the first: above 1 where the second leaks less.

    >>> round(relative_factor(difference=100.0, pixels=3072), 3)
    1.067
    """
    return math.exp(2 * difference / pixels)
