"""Linear answer with a learned correction, from images that are moved at every step."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..data import Split, to_float
from ..errors import DivergedError, UserError
from ..memory import trained
from ..nn import fastconv
from ..randomness import seeded_layers
from ..ranges import Batch, Count, Part, Rate
from ..registry import plugin
from ..runtime import Runtime, State, copy_weights
from ._averaged import Averaged
from ._correction import Correction, beside, require_doubled
from ._held_out import hold_out_images
from ._moved import Moves
from ._rounding import in_bf16
from ._shown import Shown
from .base import BATCH, Attack, Extent, Observations, Victim
from .linear import LinearAttack

WITHIN = 10
"""Spread of a wire beyond which, or below one over which, it is scaled (`Shown`)."""


@plugin("residual")
class ResidualAttack(Attack):
    """Answer x̂₀ of the attack `linear` plus what a network learned to add: x̂ = x̂₀ + R(x̂₀, z_wire).

    R minimizes E‖x̂ − x‖², so that x̂ tends to the posterior mean as the `decoder` does, but it begins with x̂₀,
    computes at the resolution of the wire (see `Correction`) and learns from more images: at every step these are
    shifted, mirrored and sent anew. `Muon` trains its convolutions. The weights are means over about a tenth of the
    steps, those of the epoch that is best on held-out images. Hidden entries are imputed (see `seen_through`).

    Args:
        epochs: passes over the attacker's images. channels: of the network at the resolution of the wire.
        lr: highest rate of Muon. shift: most that images are shifted, as a part of their shorter side.
        flip: mirror images at random; None: where the attacker has 40 that look alike when mirrored.

    >>> ResidualAttack(epochs=2).channels
    96
    """

    learns: ClassVar = True
    holds_out: ClassVar = True
    sees_through: ClassVar = True

    def __init__(
        self,
        epochs: Count = 10,
        channels: Count = 96,
        lr: Rate = 0.02,
        batch_size: Batch = 64,
        shift: Part = 1 / 16,
        flip: bool | None = None,
    ):
        self.epochs, self.channels, self.lr, self.batch_size = epochs, channels, lr, batch_size
        self.shift, self.flip, self._linear = shift, flip, LinearAttack()
        self._curve: list[float] = []
        self._shown: Shown | None = None

    def check(self, wire: tuple[int, ...], size: int) -> None:
        require_doubled(wire, (size,))

    def fewest(self) -> int:
        return self._linear.fewest() + 1  # of which one is held out

    def memory(self, extent: Extent) -> dict[str, int]:
        require_doubled(extent.wire, extent.image[1:])
        wire, (_, height, width) = extent.wire, extent.image
        folded = wire[0] + extent.image[0] * height * width // (wire[1] * wire[2])
        build = partial(Correction, wire, extent.image, self.channels)
        return super().memory(extent) | trained("channels", build, extent.batch(self.batch_size), folded, *wire[1:])

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        if len(images) < self.fewest():
            raise UserError(f"residual: the attacker has {len(images)} images; expected at least {self.fewest()}")
        runtime = runtime or Runtime()
        held, own = (part.to(victim.device) for part in hold_out_images(images, rng, "residual"))
        with runtime.share(0.2):
            self._linear.fit(victim, own, rng, runtime)
        with runtime.share(0.1):
            self._shown = Shown.learn(victim, victim.observe(own), rng, WITHIN, runtime)
        self._build(victim, own, rng)
        with runtime.share(1):  # the rates rise and fall in the time that is left
            self._learn(victim, victim.observe(held), own, rng, runtime)

    def _build(self, victim: Victim, own: Split, rng: torch.Generator) -> None:
        wire = victim.query(to_float(own.images[:BATCH]), torch.Generator(rng.device).manual_seed(0))
        seen = self._shown(wire) if self._shown else wire
        require_doubled(shape := tuple(seen.shape[1:]), own.shape[1:])
        with seeded_layers(rng):
            network = Correction(shape, own.shape, self.channels)
        self.network = fastconv.placed(network, rng.device)
        self._bf16 = in_bf16(seen)

    def _learn(self, victim: Victim, held: Observations, own: Split, rng: torch.Generator, runtime: Runtime) -> None:
        """Train on moved images, and keep the mean weights of the epoch that is best on ``held``."""
        moves, size = Moves.of(own.images, self.shift, self.flip), min(self.batch_size, len(own))
        training = Averaged(self.network, self.lr, torch.bfloat16 if self._bf16 else torch.float32)
        self.network = training.mean
        state: State = {**training.state(), "best": math.inf, "weights": {}, "curve": []}
        loop = runtime.loop("residual", self.epochs, state, rng, per_round=len(own) // size)
        for _ in loop:
            order = torch.randperm(len(own), generator=rng, device=rng.device)
            for index in loop.steps(order[: loop.per_round * size].split(size)):
                x = to_float(moves(own.images[index], rng)).to(memory_format=torch.channels_last)
                victim.tally.asked += size
                training.step(mse_loss(self._answer(victim.query(x, rng), training.network, self._bf16), x), loop)
            loop.error = self._error(held, torch.Generator(rng.device).manual_seed(0))
            state["curve"].append(loop.error)
            if loop.error < state["best"]:
                state |= {"best": loop.error, "weights": copy_weights(self.network)}
        self._curve = state["curve"]
        if not math.isfinite(state["best"]):
            raise DivergedError(f"residual: the error is {self._curve[-1]} in every epoch; lower lr ({self.lr})")
        self.network.load_state_dict(state["weights"])

    def _answer(self, wire: Tensor, network: nn.Module, bf16: bool = False) -> Tensor:
        seen = beside(self._linear.reconstruct(wire), self._shown(wire) if self._shown else wire)
        with torch.autocast(wire.device.type, torch.bfloat16, enabled=bf16):
            return network(seen)

    @torch.no_grad()
    def _error(self, held: Observations, rng: torch.Generator) -> float:
        """Return the mean squared error of the mean weights on ``held``."""
        total = torch.zeros((), dtype=torch.float64, device=rng.device)  # read once: reading waits for the device
        for index in torch.arange(len(held), device=rng.device).split(BATCH):
            found = self._answer(held.wire(index, rng), self.network)
            total += (found - held.images(index)).square().mean((1, 2, 3)).sum()
        return float(total) / len(held)

    @torch.no_grad()
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat([self._answer(part, self.network) for part in wire.split(BATCH)]).clamp(0, 1)

    def curve(self) -> list[float]:
        return list(self._curve)
