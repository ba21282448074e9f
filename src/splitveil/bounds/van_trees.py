"""Van Trees' inequality: no attacker beats what the wire and the prior of the images leave open."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..attacks._ddpm import Ddpm
from ..attacks._denoiser import Level
from ..ranges import Count, Several, Whole
from ..registry import plugin
from ._gaussians import FULL_UP_TO
from ._prior import DenoiserPrior, GaussianPrior, shrunk
from ._smooth import SmoothWire, pixels_of
from ._van_trees import Form, Rows, diagonal
from .base import Bound, Channel, Estimate

WEIGHTS = (0.02, 0.2)
"""Weights of the diagonal that are tried in the estimate of E[I] + S."""
GAUSSIAN = (
    "The images are drawn from {}. Photos are not: of all images with this covariance Gaussian ones have the largest "
    "bound, and an attacker that knows what photos look like can fall below it."
)
LEARNED = (
    "It is about images with noise of {:.3f} on their pixels, and about the error on these noisy images; the "
    "denoiser's score of them is right. Only what exceeds the noise's own {:.2g} is about the images."
)
SAMPLING = "The interval covers which images were drawn; it does not cover that the prior has another form."


@plugin("van_trees")
class VanTrees(Bound):
    """Bound the error of any attacker, biased or not, by the Fisher information of the wire and of the prior.

    With E[I] the mean over the images of Jᵀ Σ⁻¹ J and S = E[s sᵀ], s the score of the images' density, for d pixels

        MSE ≥ (1/d) tr (E[I] + S)⁻¹ ≥ d / (tr E[I] + tr S)

    (van Trees, "Detection, Estimation, and Modulation Theory", 1968, part I, section 2.4). The first is the largest of
    (tr C)² / (d · tr C (E[I] + S) Cᵀ) over matrices C, which holds for each of them. C is therefore made of the ``fit``
    images, one of several is chosen on the next part, and the traces are means over held-out images: what is too
    little known about (E[I] + S)⁻¹ makes the bound smaller and never too large. The scalar bound is that of C = 1.
    Products with C are made from vector-Jacobian products; beyond 4,096 pixels C is diagonal in the cosine transform.

    Args:
        prior: "gaussian", with the covariance of the ``fit`` images; "denoiser", the diffusion model of the attack
            `diffusion`, of slightly noisy images, which takes minutes to train.
        images: at most so many of each part are differentiated, two or more.
        directions: vector-Jacobian products for each.
        level: the denoiser's level of noise, of 1,000.
        epochs, width, batch_size: of the denoiser, see `Ddpm`.

    Raises:
        BoundError: the wire's noise is not Gaussian, there is none, or it differs between images.

    >>> from splitveil.bounds._examples import linear_pixels
    >>> scalar, matrix = VanTrees().estimate(linear_pixels(sigma=0.5)[0], torch.Generator().manual_seed(0))
    >>> scalar.value < matrix.value < 1 / 12  # the variance of uniform pixels
    True
    """

    def __init__(
        self,
        prior: Literal["gaussian", "denoiser"] = "gaussian",
        images: Several = 500,
        directions: Count = 4,
        level: Level = 30,
        epochs: Whole = 20,
        width: Count = 32,
        batch_size: Count = 64,
    ):
        self.prior, self.images, self.directions, self.level = prior, images, directions, level
        self._ddpm = Ddpm(epochs, width, batch_size)

    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        wire, images = SmoothWire(channel), GaussianPrior(channel, rng)
        noisy = DenoiserPrior(channel, self._ddpm, self.level, rng) if self.prior == "denoiser" else None

        def looked_at(part: str) -> Rows:
            x = pixels_of(channel, part, self.images, rng)
            x, scores = noisy.noisy(x, rng) if noisy else (x, None)
            g = images.turned(wire.scores(x, self.directions, rng).unflatten(2, x.shape[1:]).flatten(0, 1))
            s = images.coordinates(x) / images.scale if scores is None else images.turned(scores) * images.scale
            return Rows(g.view(len(x), self.directions, -1) * images.scale, s)

        known = None if noisy else images.precision()
        fit, choose, held_out = map(looked_at, ("fit", "choose", "held_out"))
        tried = [Form(c, images.scale.square(), known) for c in _matrices(fit, known)]
        best = max(tried, key=lambda form: form.bound(float(form.squares(choose).mean())))
        forms = {"scalar": Form(1 / images.scale.square(), images.scale.square(), known), "matrix": best}
        prior = LEARNED.format(noisy.deviation, noisy.deviation**2) if noisy else GAUSSIAN.format(images.about)
        told = (prior, SAMPLING, wire.assumption)
        found = []
        for name, form in forms.items():
            interval = form.interval(held_out, images.count)
            about = f"van Trees, {name} form, {self.prior} prior"
            found.append(Estimate(interval.mean, "lower", "mse", about, told, len(held_out.wire), interval))
        return found


def _matrices(fit: Rows, known: Tensor | None) -> list[Tensor]:
    """Return estimates of (E[I] + S)⁻¹: the inverse of its diagonal, and matrices where they are not too large."""
    g = fit.wire.flatten(0, 1)
    parts = [(g, len(g))] + ([(fit.prior, len(fit.prior))] if known is None else [])
    prior = torch.zeros_like(g[0]) if known is None else known
    found = [1 / (sum(rows.square().sum(0) / n for rows, n in parts) + diagonal(prior))]
    if g.shape[1] <= FULL_UP_TO:
        moment = sum((rows.T @ rows / n for rows, n in parts), torch.zeros(())).double()
        full = (prior if prior.ndim == 2 else prior.diag()).double()
        for weight in WEIGHTS:
            factor = torch.linalg.cholesky(shrunk(moment, weight) + full)
            found.append(torch.cholesky_inverse(factor).to(g))
    return found
