"""White-box maximum a posteriori: the likelihood of the wire times a prior learned by a diffusion model."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..data import Access, Split
from ..errors import UserError
from ..ranges import Count, Rate, Weight, Whole
from ..registry import plugin
from ..runtime import Runtime
from ._backward import Mode
from ._ddpm import Ddpm, score
from ._denoiser import Denoiser, Level
from ._guide import Guide
from ._start import first_guess
from .base import BATCH, Attack, Extent, Victim
from .decoder import DecoderAttack

WEIGHTS = (0.3, 1.0, 3.0, 10.0, 30.0)
LEAST_NOISE = 1e-3
"""Least σ², as a part of the wire's variance over images: without noise the prior would have no effect."""


@plugin("map")
class MapAttack(Attack):
    """Maximum a posteriori: minimize ‖E_ε D(f(x), ε) − z_wire‖²/(2σ²) − weight · log π(x) over x in [0, 1].

    σ² is the variance of the wire's noise, from two looks at the attacker's own images; the gradient of log π is the
    score of a diffusion model of its images (see `prior_gradient`), at levels of noise that fall from ``high`` to
    ``low``. By Adam, cosine to a hundredth of lr; all images of a call at once, each with its own loss. The weight
    where it is None, and the backward pass (see `WhiteBox`), are chosen by the error on the attacker's held-out images.

    For e = Wx + N(0, σ²I), Gaussian x, weight=1 and low=0 it is the MMSE estimator.

    `curve` is the denoiser's error on held-out images after each epoch, as a part of the noise's variance.

    Args:
        steps: Adam steps. weight: weight of log π; None: chosen. lr: Adam's initial rate, in pixels.
        start: ``mean`` image, or the answer of ``linear``, ``decoder`` or ``residual``.
        high, low: first and last level of noise, of 1,000.
        epochs, width, batch_size: settings of the diffusion model, see `Ddpm`.
        start_epochs: epochs of the decoder, where it is the start.
        draws: draws of the defense's noise in each step. tuning: attacker images on which the weight is chosen.
    """

    needs: ClassVar = frozenset({Access.QUERY, Access.WEIGHTS})
    all_looks: ClassVar = True
    iterates: ClassVar = True

    def __init__(
        self,
        steps: Count = 500,
        weight: Weight | None = None,
        lr: Rate = 5e-2,
        start: Literal["mean", "linear", "decoder", "residual"] = "linear",
        high: Level = 200,
        low: Level = 30,
        epochs: Whole = 50,
        width: Count = 32,
        batch_size: Count = 64,
        start_epochs: Count = 50,
        draws: Count = 4,
        tuning: Count = 16,
    ):
        if low > high:
            raise UserError(f"map: high is {high}, low {low}; expected a low level of noise below the high one")
        self.steps, self.weight, self.lr, self.high, self.low = steps, weight, lr, high, low
        self.draws, self.tuning, self._prior = draws, tuning, Ddpm(epochs, width, batch_size)
        self._first = first_guess(start, DecoderAttack(start_epochs))

    def memory(self, extent: Extent) -> dict[str, int]:
        tried = min(self.tuning, extent.images // 10) * (len(WEIGHTS) if self.weight is None else 1)
        # Of each image its gradient and two moments of Adam.
        held = {"tuning": tried * (4 * extent.image_bytes + extent.wire_bytes), **extent.search(self.draws)}
        return super().memory(extent) | self._prior.memory(extent) | held

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        self._runtime = runtime or Runtime()
        known = self._first, self._prior, victim, images, rng, self._runtime
        self.guide = Guide.learn("map", *known, draws=self.draws, held_out=self.tuning)
        self._seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        weights = WEIGHTS if self.weight is None else (self.weight,)
        self.mode: Mode
        self.chosen, self.mode = self.guide.choose(weights, self._search, self._runtime)

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return self._search(wire, torch.full((len(wire),), self.chosen, device=wire.device), self.mode)

    def _search(self, wire: Tensor, weights: Tensor, mode: Mode) -> Tensor:
        rng, guide = torch.Generator(wire.device).manual_seed(self._seed), self.guide
        target, weights = guide.box.target(wire), weights.view(-1, 1, 1, 1)
        first = guide.denoiser.gaussian.mean.expand(len(wire), -1, -1, -1) / 2 + 0.5
        x = (guide.first.reconstruct(guide.box.one_wire(wire)) if guide.first else first).clone()
        x.grad = torch.zeros_like(x)
        optimizer = torch.optim.Adam([x], self.lr)
        loop = self._runtime.loop(f"map {mode}", self.steps, {"x": x, "optimizer": optimizer}, rng)
        for _ in loop:
            loop.anneal(optimizer, self.lr, 0.01 * self.lr)
            t = round(self.high + (self.low - self.high) * loop.fraction)
            for part in torch.arange(len(x), device=x.device).split(BATCH):
                likelihood = self._likelihood_gradient(x[part], target[part], rng, mode)
                prior = prior_gradient(guide.denoiser, 2 * x[part] - 1, t, rng)
                x.grad[part] = likelihood - 2 * weights[part] * prior
            optimizer.step()
            x.clamp_(0, 1)
        return x

    @torch.enable_grad()
    def _likelihood_gradient(self, x: Tensor, target: Tensor, rng: torch.Generator, mode: Mode) -> Tensor:
        """Return ∇_x ‖E_ε D(f(x), ε) − z_wire‖²/(2σ²)."""
        x, box = x.detach().requires_grad_(), self.guide.box
        unit = target.shape[1] / (2 * max(box.noise / box.scale, LEAST_NOISE))
        return torch.autograd.grad(unit * box.feature_loss(x, target, rng, mode).sum(), x)[0]

    def curve(self) -> list[float]:
        return self.guide.curve


@torch.no_grad()
def prior_gradient(denoiser: Denoiser, y: Tensor, t: int, rng: torch.Generator) -> Tensor:
    """Return ∇_y E_ε log p_t(√ᾱ_t y + √(1 − ᾱ_t) ε) of images y (B, 3, S, S) in [-1, 1], from one ε.

    A denoiser knows noisy images only, so a clean one is noised before it is asked (as in Mardani et al. 2024). The
    Gaussian model's answer to the noise alone has mean zero and is subtracted: a control variate, after which nothing
    random is left where the images are Gaussian.

    Args:
        denoiser: diffusion model of the images.
        y: images (B, C, H, W) in [-1, 1].
        t: level of noise.
        rng: generator of ε.
    """
    alpha, level = denoiser.alpha[t], torch.tensor(t, device=y.device)
    noise = (1 - alpha).sqrt() * torch.randn(y.shape, generator=rng, device=y.device)
    expected = denoiser(alpha.sqrt() * y + noise, level)
    from_noise = denoiser.gaussian(alpha.sqrt() * denoiser.gaussian.mean + noise, alpha)
    return alpha.sqrt() * score(expected - from_noise, alpha)
