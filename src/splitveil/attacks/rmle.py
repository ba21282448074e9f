"""White-box optimization of the pixels until the encoder gives the observed wire (rMLE, He et al. 2019)."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..data import Access, Split, to_float
from ..errors import UserError
from ..ranges import Count, Looks, Rate, Weight
from ..registry import plugin
from ..runtime import Runtime
from ._start import first_guess
from ._total_variation import total_variation
from ._white_box import Mode, WhiteBox
from .base import Attack, Extent, Victim
from .decoder import DecoderAttack

TV_WEIGHTS = (0.0, 0.01, 0.1, 1.0)
L2_WEIGHTS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
SAMPLE = 4096  # attacker images that give the mean image and the scales
SPREAD = 0.2  # standard deviation, in pixels, of the noise on the start of the second and later restarts


@plugin("rmle")
class RmleAttack(Attack):
    """Regularized maximum likelihood: minimize over x in [0, 1] the distance on the wire plus what images are like.

    ‖E_ε D(f(x), ε) − z_wire‖²/(m v) + tv · TV(x)/TV₀ + l2 · ‖x − c‖²/(d u); v, u: the variances of the attacker's
    wires and pixels over images, TV₀ its images' total variation, so that weights mean the same everywhere. He, Zhang
    and Lee, ACSAC 2019, with Adam and a cosine to a tenth of lr. All images of a call are optimized at once, each with
    its own loss: the result does not depend on its neighbors. Weights left at None are chosen, together with the
    backward pass (see `WhiteBox`), by the error on the attacker's own images. Each image keeps the restart that is
    nearest on the wire, never the one nearest to the truth.

    For e = Wx + N(0, σ²I), x ~ N(c, u I): tv=0, l2 = d σ²/(m v) is the MMSE estimator.

    Args:
        steps: Adam steps of each restart. restarts: the first is from ``start``, the others from ``start`` with noise.
        tv, l2: weights of total variation and of the distance to c; None: chosen. lr: Adam's rate, in pixels.
        start: first guess: ``grey`` (0.5), ``mean`` image, or the answer of ``linear``, ``decoder`` or ``residual``.
        center: c: ``start`` or ``zero`` (as published).
        draws: draws of the defense's noise in a step. tuning: images that choose the weights. epochs: the decoder's.
    """

    needs: ClassVar = frozenset({Access.QUERY, Access.WEIGHTS})
    all_looks: ClassVar = True
    iterates: ClassVar = True

    def __init__(
        self,
        steps: Count = 5000,
        tv: Weight | None = None,
        l2: Weight | None = None,
        lr: Rate = 1e-2,
        restarts: Looks = 1,
        start: Literal["grey", "mean", "linear", "decoder", "residual"] = "mean",
        center: Literal["start", "zero"] = "start",
        draws: Count = 4,
        tuning: Count = 16,
        epochs: Count = 50,
    ):
        self.steps, self.lr, self.restarts, self.draws, self.tuning = steps, lr, restarts, draws, tuning
        self.start, self.center = start, center
        given = (TV_WEIGHTS if tv is None else (tv,)), (L2_WEIGHTS if l2 is None else (l2,))
        self._pairs = list(itertools.product(*given))
        self._first = first_guess(start, DecoderAttack(epochs))

    def memory(self, extent: Extent) -> dict[str, int]:
        return super().memory(extent) | extent.search(self.draws, self.tuning, len(self._pairs))

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        self._runtime, self._curve = runtime or Runtime(), []
        if (count := min(self.tuning, len(images) - 1)) < 1:
            raise UserError(f"rmle: the attacker has {len(images)} images; expected at least 2")
        order = torch.randperm(len(images), generator=rng, device=rng.device).cpu()
        # A start that was trained on the held-out images would look too good.
        own = images.subset(order[count:])
        x = to_float(own.images[:SAMPLE]).to(victim.device)
        self.mean = x.mean(0)
        self._typical = float(total_variation(x).mean()), float((x - x.mean(0)).square().mean().clamp(min=1e-6))
        if self._first:
            with self._runtime.share(0.5):
                self._first.fit(victim.of(self._first), own, rng, self._runtime)
        self.box = WhiteBox(victim, own, self.draws, rng)
        self._seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))
        truth = to_float(images.images[order[:count]].to(victim.device))
        self._choose(truth, victim.query(truth, rng))

    def _choose(self, truth: Tensor, wire: Tensor) -> None:
        """Try every pair of weights on every held-out image, all at once; once for each backward pass."""
        self.mode: Mode = self.box.modes[0]
        self.tv, self.l2 = self._pairs[0]
        if len(self._pairs) * len(self.box.modes) == 1:
            return
        best, weights = math.inf, torch.tensor(self._pairs, device=wire.device).repeat_interleave(len(truth), 0)
        for mode in self._runtime.each(self.box.modes):
            found = self._optimize(wire.repeat(len(self._pairs), *[1] * (wire.dim() - 1)), weights, mode, 0)[0]
            errors = (found.view(len(self._pairs), *truth.shape) - truth).square().mean((1, 2, 3, 4)).tolist()
            self._curve.append(min(errors))
            if min(errors) < best:
                best, self.mode = min(errors), mode
                self.tv, self.l2 = self._pairs[errors.index(best)]

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        weights = torch.tensor([[self.tv, self.l2]], device=wire.device)
        best, loss = torch.empty(0), torch.full((len(wire),), torch.inf, device=wire.device)
        for restart in self._runtime.each(range(self.restarts)):
            found, other = self._optimize(wire, weights, self.mode, restart)
            best = torch.where((other < loss)[:, None, None, None], found, best) if restart else found
            loss = torch.minimum(loss, other)
        return best

    @torch.enable_grad()
    def _optimize(self, wire: Tensor, weights: Tensor, mode: Mode, restart: int) -> tuple[Tensor, Tensor]:
        """Return images (B, 3, S, S) and their distance on the wire (B,), for weights (B or 1, 2)."""
        rng = torch.Generator(wire.device).manual_seed(self._seed + restart)
        target, start = self.box.target(wire), self._starts(wire)
        tv, l2 = (weights / torch.tensor(self._typical, device=wire.device)).T
        center = start if self.center == "start" else torch.zeros_like(start)
        x = start.clone()
        if restart:
            x = (x + SPREAD * torch.randn(x.shape, generator=rng, device=x.device)).clamp_(0, 1)
        optimizer = torch.optim.Adam([x.requires_grad_()], self.lr)
        loop = self._runtime.loop(f"rmle {mode}", self.steps, {"x": x, "optimizer": optimizer}, rng)
        loop.error = self._curve[-1] if self._curve else math.nan
        for _ in loop:
            loop.anneal(optimizer, self.lr, 0.1 * self.lr)
            prior = tv * total_variation(x) + l2 * (x - center).square().mean((1, 2, 3))
            optimizer.zero_grad(set_to_none=True)
            (self.box.feature_loss(x, target, rng, mode) + prior).sum().backward()
            optimizer.step()
            x.data.clamp_(0, 1)
        with torch.no_grad():  # one seed for all restarts: they are compared under the same noise
            loss = self.box.feature_loss(x, target, rng.manual_seed(self._seed), mode, 8 * self.box.draws)
        return x.detach(), loss

    def _starts(self, wire: Tensor) -> Tensor:
        if self._first:
            return self._first.reconstruct(self.box.one_wire(wire))
        return (self.mean if self.start == "mean" else self.mean * 0 + 0.5).expand(len(wire), -1, -1, -1)

    def curve(self) -> list[float]:
        return self._curve
