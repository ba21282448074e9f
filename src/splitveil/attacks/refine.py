"""White-box refinement of another attack's answer, by how wrong that attack is known to be."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..data import Access, Split, to_float
from ..ranges import Batch, Count, Looks, Rate, Weight
from ..registry import plugin
from ..runtime import Runtime
from ..zoo.decoders import Network
from ._backward import Mode
from ._cosine import CosineModel
from ._held_out import choose, fit_start
from ._lbfgs import MEMORY, Lbfgs
from ._start import first_guess
from ._white_box import WhiteBox
from .base import BATCH, Attack, Extent, Victim
from .decoder import PATIENCE, DecoderAttack

WEIGHTS = (0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
LEAST_NOISE = 1e-3
"""Least σ², as a part of the wire's variance over images: without noise the start would have no effect."""
PART = 32
"""Number of images whose gradient is computed at once on a CPU: more do not fit its cache."""
EXACT = 0.01
"""Factor on the weights where the wire has less noise: only weight · σ² counts, so smaller σ² are tried."""


@plugin("refine")
class RefineAttack(Attack):
    """Calibrated refinement: minimize ‖E_ε D(f(x), ε) − z_wire‖²/(2σ²) + weight · ½ Σ_k c_k(x − x₀)²/λ_k over x.

    x₀ is the answer of another attack, c_k the orthonormal cosine coefficients of an image in principal colors, and
    λ_k the mean square of c_k over that attack's errors on the attacker's held-out images, with which it has made no
    step (a decoder has chosen its weights by them): a Gaussian model of how wrong x₀ is. σ² is the variance of the
    wire's noise on each entry (see `WhiteBox`). By L-BFGS over c_k/√λ_k; all images of a call at once, each with its
    own loss. The weight where it is None (theory: 1) and the backward pass are chosen by the error on held-out images.

    For e = Wx + N(0, σ²I), Gaussian x and the mean image as x₀ it is the MMSE estimator.

    `curve` is the error on the images that choose: of the start, then of the refinement.

    Args:
        steps: L-BFGS steps. weight: weight of the distance to x₀; None: chosen.
        start: ``mean`` image, or the answer of the attack ``linear``, ``decoder`` or ``residual`` (with its defaults).
        epochs, network, lr, weight_decay, batch_size, start_steps, patience: settings of the decoder, where it is the
            start, see `DecoderAttack` (``start_steps`` is its ``steps``).
        draws: draws of the defense's noise, the same in each step. tuning: held-out images that choose the weight.
    """

    needs: ClassVar = frozenset({Access.QUERY, Access.WEIGHTS})
    all_looks: ClassVar = True
    iterates: ClassVar = True
    instead_of_epochs: ClassVar = "start_steps"

    def __init__(
        self,
        steps: Count = 150,
        weight: Weight | None = None,
        start: Literal["mean", "linear", "decoder", "residual"] = "decoder",
        epochs: Count = 50,
        network: Network = "res_normN8C64",
        lr: Rate = 1e-3,
        weight_decay: Weight = 1e-4,
        batch_size: Batch = BATCH,
        draws: Looks = 16,
        tuning: Count = 16,
        start_steps: Count | None = None,
        patience: Count = PATIENCE,
    ):
        self.steps, self.weight, self.draws, self.tuning = steps, weight, draws, tuning
        decoder = DecoderAttack(epochs, network, lr, weight_decay, batch_size, start_steps, patience)
        self._first = first_guess(start, decoder)

    def memory(self, extent: Extent) -> dict[str, int]:
        tried = min(self.tuning, extent.images // 10) * (len(WEIGHTS) if self.weight is None else 1)
        part = replace(extent, answered=min(PART, extent.answered))
        return {**super().memory(extent), "tuning": tried * 2 * MEMORY * extent.image_bytes, **part.search(self.draws)}

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        self._runtime = runtime or Runtime()
        held, own = fit_start(self._first, victim, images, rng, self._runtime, 0.6, "refine")
        self.mean = torch.stack([to_float(part).mean(0) * len(part) for part in own.images.split(BATCH)]).sum(0)
        self.mean = self.mean.to(victim.device) / len(own)
        self.box = WhiteBox(victim, own, self.draws, rng)
        self._seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        truth = to_float(held.images.to(victim.device))
        wire = victim.query(truth, rng)
        self.errors = CosineModel.fit(self._starts(wire) - truth)
        self.noise = self.box.noise / self.box.scale
        self._choose(truth[: self.tuning], wire[: self.tuning])

    def _choose(self, truth: Tensor, wire: Tensor) -> None:
        weights = WEIGHTS if self.noise > LEAST_NOISE else tuple(EXACT * weight for weight in WEIGHTS)
        weights = weights if self.weight is None else (self.weight,)
        self._curve = [float((self._starts(wire) - truth).square().mean())]
        self.mode: Mode
        self.chosen, self.mode, error = choose(weights, self.box.modes, self._search, truth, wire, self._runtime)
        self._curve += [] if error is None else [error]

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return self._search(wire, torch.full((len(wire),), self.chosen, device=wire.device), self.mode)

    def _search(self, wire: Tensor, weights: Tensor, mode: Mode) -> Tensor:
        """Return images (B, 3, S, S), with a weight (B,) for each."""
        rng, size = torch.Generator(wire.device), PART if wire.device.type == "cpu" else BATCH
        start = self._starts(wire)
        known = [values.split(size) for values in (start, self.box.target(wire), weights)]

        def objective(u: Tensor) -> tuple[Tensor, Tensor]:
            rng.manual_seed(self._seed)  # one noise for all steps: it must not make one look good or bad
            parts = zip(u.split(size), *known, strict=True)
            found = [self._objective(v, first, target, w, rng, mode) for v, first, target, w in parts]
            return torch.cat([value for value, _ in found]), torch.cat([gradient for _, gradient in found])

        search = Lbfgs(torch.zeros_like(start.flatten(1)))
        loop = self._runtime.loop(f"refine {mode}", self.steps, {"search": search}, rng)
        for _ in loop:
            search.step(objective)
        return (start + self.errors.image(search.x.view_as(start))).clamp(0, 1)

    @torch.enable_grad()
    def _objective(
        self, u: Tensor, start: Tensor, target: Tensor, weights: Tensor, rng: torch.Generator, mode: Mode
    ) -> tuple[Tensor, Tensor]:
        """Return what is minimized, (B,), and its gradient, at x = x₀ + Σ_k √λ_k u_k: u (B, 3 S²)."""
        u = u.detach().requires_grad_()
        x = start + self.errors.image(u.view_as(start))
        unit = target.shape[1] / (2 * max(self.noise, LEAST_NOISE))
        loss = unit * self.box.feature_loss(x, target, rng, mode) + weights * u.square().sum(1) / 2
        return loss.detach(), torch.autograd.grad(loss.sum(), u)[0]

    def _starts(self, wire: Tensor) -> Tensor:
        if self._first:
            return self._first.reconstruct(self.box.one_wire(wire))
        return self.mean.expand(len(wire), -1, -1, -1)

    def curve(self) -> list[float]:
        return self._curve
