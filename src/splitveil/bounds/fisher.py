"""Fisher information leakage: how sharply the wire answers to a small change of the image."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from ..ranges import Count, Several
from ..registry import plugin
from ..statistics.intervals import Interval, student_over_normal
from ._smooth import BATCH, SmoothWire, pixels_of
from .base import Bound, BoundError, Channel, Estimate

EXACT_UP_TO = 64
"""Pixels, colors counted, up to which the trace is exact: a derivative by each of them costs no more than seconds."""
UNBIASED = "The attacker is unbiased: averaged over the noise it answers each image itself. No attack on images is."


@plugin("fisher")
class FisherBound(Bound):
    """Bound the error of unbiased attackers by the Fisher information of the wire about the pixels.

    dFIL(x) = tr(Jᵀ Σ⁻¹ J)/d with J the derivative of the wire's mean by the d pixels; an unbiased attacker's mean
    squared error on x is at least 1/dFIL(x) (Cramér and Rao; Maeng et al., "Bounding the invertibility of
    privacy-preserving instance encoding using Fisher information leakage", NeurIPS 2023). The trace is made of
    Jacobian-vector products: with each pixel where these are at most 64, which is exact, else with random signs
    (Hutchinson), whose error is within the interval. Its mean over the images stands in the bound, since
    1/mean ≤ mean of 1/dFIL.

    Args:
        directions: random directions for each image of more than 64 pixels.
        images: at most so many of the held-out images, two or more.

    Raises:
        BoundError: the wire's noise is not Gaussian, there is none, or it differs between images.

    >>> from splitveil.bounds._examples import linear_pixels
    >>> channel, exact = linear_pixels(sigma=0.5)  # 1/dFIL of a linear encoder is d σ²/‖W‖²
    >>> (found,) = FisherBound().estimate(channel, torch.Generator().manual_seed(0))  # of 48 pixels, so exact
    >>> abs(found.value / exact - 1) < 1e-5
    True
    """

    def __init__(self, directions: Count = 4, images: Several = 500):
        self.directions, self.images = directions, images

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        wire = SmoothWire(channel)
        pixels = pixels_of(channel, "held_out", self.images, rng)
        leakage = torch.cat([self._leakage(wire, x, rng) for x in pixels.split(BATCH)])
        mean, error = float(leakage.mean()), float(leakage.std() / len(leakage) ** 0.5)
        if mean == 0:
            raise BoundError("the wire does not change with the image at all: no finite error can be named")
        half = 1.96 * student_over_normal(len(leakage)) * error
        interval = Interval(1 / mean, 1 / (mean + half), 1 / max(mean - half, mean / 100))
        about = f"dFIL {mean:.3g}, unbiased attackers only"
        return [Estimate(1 / mean, "lower", "mse", about, (UNBIASED, wire.assumption), len(leakage), interval)]

    @torch.no_grad()
    def _leakage(self, wire: SmoothWire, x: Tensor, rng: torch.Generator) -> Tensor:
        total = torch.zeros(len(x), device=x.device, dtype=torch.float64)
        pixels = x[0].numel()
        exact = pixels <= EXACT_UP_TO
        for number in range(pixels if exact else self.directions):
            if exact:
                direction = torch.zeros_like(x)
                direction.view(len(x), -1)[:, number] = 1
            else:
                direction = torch.randint(0, 2, x.shape, generator=rng, device=x.device) * 2.0 - 1
            with warnings.catch_warnings():
                # PyTorch's first forward derivative of a process warns of its own use of torch.jit.script.
                warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
                change = torch.func.jvp(wire.mean, (x,), (direction,))[1]
            total += (change.flatten(1).double().square() / wire.variance).sum(1)
        return total / pixels / (1 if exact else self.directions)
