"""White-box sampling from a diffusion model of the attacker's images, led by the wire (DRAG)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..data import Access, Split
from ..errors import UserError
from ..ranges import Count, Part, Whole
from ..registry import plugin
from ..runtime import Runtime, State
from ._backward import Mode
from ._ddpm import Ddpm, clean, paired
from ._denoiser import LEVELS, Level
from ._guide import Guide
from ._start import first_guess
from .base import BATCH, Attack, Extent, Victim
from .decoder import PATIENCE, DecoderAttack

RATES = (0.05, 0.1, 0.2, 0.3, 0.5)


@plugin("diffusion")
class DiffusionAttack(Attack):
    """Guided diffusion: the mean of images drawn from a diffusion model under the pull of the wire.

    Ancestral sampling (DDIM with η = 1, Song et al. 2021) from a model of the attacker's images. Each step's noise is
    mixed with the direction in which the expected image comes nearer to the wire (`spherical`; Lei et al. 2025, DRAG).
    It begins at noise, or at another attack's answer with noise of ``level`` (DRAG++). The mean of several samples, in
    pairs of opposite noise, has less squared error than DRAG's one. A rate of None and the backward pass (`WhiteBox`)
    are chosen on held-out images; `curve` is the denoiser's error on these.

    Args:
        steps: steps of the sampler. samples: samples of each image. guidance: the wire's part of a step's noise; None:
            chosen.
        start: ``noise``, or the answer of ``linear``, ``decoder`` or ``residual``. level: its level of noise, of 1,000.
        epochs, width, batch_size: see `Ddpm`. start_epochs, start_steps, patience: settings of a decoder as the start.
        draws: draws of the defense's noise in each step. tuning: attacker images on which the rate is chosen.
    """

    needs: ClassVar = frozenset({Access.QUERY, Access.WEIGHTS})
    all_looks: ClassVar = True
    iterates: ClassVar = True

    def __init__(
        self,
        steps: Count = 250,
        samples: Count = 4,
        guidance: Part | None = None,
        start: Literal["noise", "linear", "decoder", "residual"] = "linear",
        level: Level = 500,
        epochs: Whole = 50,
        width: Count = 32,
        batch_size: Count = 64,
        start_epochs: Count = 50,
        draws: Count = 4,
        tuning: Count = 16,
        start_steps: Count | None = None,
        patience: Count = PATIENCE,
    ):
        self._top = LEVELS - 1 if start == "noise" else level
        if not steps <= self._top < LEVELS:
            raise UserError(f"diffusion: level is {level}, steps {steps}; expected one from {steps} to {LEVELS - 1}")
        self.steps, self.samples, self.guidance, self.draws, self.tuning = steps, samples, guidance, draws, tuning
        self._prior = Ddpm(epochs, width, batch_size)
        self._first = first_guess(start, DecoderAttack(start_epochs, steps=start_steps, patience=patience))

    def memory(self, extent: Extent) -> dict[str, int]:
        drawn = {"samples": self.samples * extent.answered * (4 * extent.image_bytes + extent.wire_bytes)}
        return super().memory(extent) | self._prior.memory(extent) | drawn | extent.search(self.draws)

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        self._runtime = runtime or Runtime()
        known = self._first, self._prior, victim, images, rng, self._runtime
        self.guide = Guide.learn("diffusion", *known, draws=self.draws, held_out=self.tuning)
        self._seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        rates = RATES if self.guidance is None else (self.guidance,)
        self.mode: Mode
        self.rate, self.mode = self.guide.choose(rates, self._sample, self._runtime)

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return self._sample(wire, torch.full((len(wire),), self.rate, device=wire.device), self.mode)

    @torch.no_grad()
    def _sample(self, wire: Tensor, rates: Tensor, mode: Mode) -> Tensor:
        rng, denoiser = torch.Generator(wire.device).manual_seed(self._seed), self.guide.denoiser
        target = self.guide.box.target(wire).repeat_interleave(self.samples, 0)
        rates = rates.view(-1, 1, 1, 1).repeat_interleave(self.samples, 0)
        shape, alpha = denoiser.gaussian.mean.shape, denoiser.alpha
        x = paired(len(wire), self.samples, shape, rng)
        if self.guide.first:
            y = (2 * self.guide.first.reconstruct(self.guide.box.one_wire(wire)) - 1).repeat_interleave(self.samples, 0)
            x = alpha[self._top].sqrt() * y + (1 - alpha[self._top]).sqrt() * x
        state: State = {"x": x, "t": self._top}
        loop = self._runtime.loop(f"diffusion {mode}", self.steps, state, rng)
        for _ in loop:
            later = round(self._top * max(0.0, 1 - loop.fraction - 1 / loop.planned))
            noise, fresh = torch.empty_like(x), paired(len(wire), self.samples, shape, rng)
            for part in torch.arange(len(x), device=x.device).split(BATCH):
                noise[part], gradient = self._pull(x[part], target[part], state["t"], rng, mode)
                fresh[part] = spherical(fresh[part], gradient, rates[part])
            x.copy_(step(x, noise, alpha[state["t"]], alpha[later], fresh))
            state["t"] = later
        # A loop that its budget has cut leaves noise, of which the last estimate is free.
        t = torch.tensor(state["t"], device=x.device)
        found = torch.cat([clean(part, denoiser(part, t), alpha[t]) for part in x.split(BATCH)])
        return (found.view(len(wire), self.samples, *shape).mean(1) / 2 + 0.5).clamp(0, 1)

    @torch.enable_grad()
    def _pull(self, x: Tensor, target: Tensor, t: int, rng: torch.Generator, mode: Mode) -> tuple[Tensor, Tensor]:
        """Return the noise expected in x, and the gradient of the distance on the wire with respect to x."""
        x, denoiser = x.detach().requires_grad_(), self.guide.denoiser
        noise = denoiser(x, torch.tensor(t, device=x.device))
        expected = clean(x, noise, denoiser.alpha[t]).clamp(-1, 1)
        loss = self.guide.box.feature_loss(expected / 2 + 0.5, target, rng, mode)
        return noise.detach(), torch.autograd.grad(loss.sum(), x)[0]

    def curve(self) -> list[float]:
        return self.guide.curve


def step(x: Tensor, noise: Tensor, alpha: Tensor, later: Tensor, fresh: Tensor) -> Tensor:
    """Return √ᾱ' ŷ + √(1 − ᾱ' − σ²) ε_θ + σ ε, σ² = (1 − ᾱ')/(1 − ᾱ) · (1 − ᾱ/ᾱ'): from level ᾱ to the later ᾱ' > ᾱ.

    Song et al. 2021, eq. 12 with η = 1; ŷ is the expected image, clipped to [-1, 1].
    """
    variance = (1 - later) / (1 - alpha) * (1 - alpha / later)
    expected = clean(x, noise, alpha).clamp(-1, 1)
    return later.sqrt() * expected + (1 - later - variance).clamp(min=0).sqrt() * noise + variance.sqrt() * fresh


def spherical(noise: Tensor, gradient: Tensor, rate: Tensor) -> Tensor:
    """Return noise (B, 3, S, S) turned against the gradient, of length √d: the length that d normal numbers have.

    √d m/‖m‖ with m = (1 − g) ε − g √d ∇/‖∇‖ (Yang et al. 2024, eq. 16 and 17).
    """
    length = gradient[0].numel() ** 0.5
    against = -length * gradient / gradient.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
    mixed = noise + rate * (against - noise)
    return length * mixed / mixed.flatten(1).norm(dim=1).clamp(min=1e-20).view(-1, 1, 1, 1)
