"""Inversion network: a decoder trained from the wire to the pixels."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from .. import fastconv
from ..data import Split
from ..errors import UserError
from ..registry import plugin
from ..zoo import decoders
from .base import BATCH, Attack, Observations, Progress, Victim

HELD_OUT = 0.1
"""Part of the attacker's images that chooses the epoch."""


@plugin("decoder")
class DecoderAttack(Attack):
    """Decoder trained on the attacker's images to minimise E‖x − D(z_wire)‖², noise redrawn for each batch.

    With enough capacity and images it tends to the posterior mean E[x | z_wire], whose error is the MMSE.
    The defaults are the published recipe: Adam 1e-3, weight decay 1e-4, cosine to 1e-5, batch 256, 50 epochs. The
    best epoch is chosen on a tenth of the attacker's own images; the decoder is scored in evaluation mode.

    Args:
        epochs: passes over the attacker's images.
        network: decoder network, see `splitveil list models`.
        lr: Adam's initial rate. weight_decay: Adam's L2 penalty.

    >>> DecoderAttack(epochs=2).network
    'res_normN8C64'
    """

    def __init__(
        self,
        epochs: int = 50,
        network: str = "res_normN8C64",
        lr: float = 1e-3,
        weight_decay: float = 1e-4,
        batch_size: int = BATCH,
    ):
        if epochs < 1 or batch_size < 2:
            raise UserError(f"decoder: epochs is {epochs}, batch_size {batch_size}; expected at least 1 and 2")
        self.epochs, self.network, self.batch_size = epochs, network, batch_size
        self.lr, self.weight_decay = lr, weight_decay
        self._curve: list[float] = []

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, progress: Progress | None = None) -> None:
        victim.require(*self.needs)
        order = torch.randperm(len(images), generator=rng, device=rng.device).cpu()
        held = max(1, round(HELD_OUT * len(images)))
        if len(images) - held < 2:
            raise UserError(f"decoder: the attacker has {len(images)} images; expected at least 3")
        judge, train = victim.observe(images.subset(order[:held])), victim.observe(images.subset(order[held:]))
        self._build(victim, judge, images.images.shape[-1], rng)
        best, seed, self._curve = math.inf, 0, []
        total = self.epochs * math.ceil(len(train) / self.batch_size)
        optimizer = torch.optim.Adam(self.decoder.parameters(), self.lr, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs, eta_min=min(1e-5, self.lr))
        done = 0
        for _ in range(self.epochs):
            self.decoder.train()
            for index in torch.randperm(len(train), generator=rng, device=rng.device).split(self.batch_size):
                done += 1
                if len(index) > 1:
                    self._step(train, index, optimizer, rng)
                if progress:
                    progress(done, total, self._curve[-1] if self._curve else math.nan)
            schedule.step()
            self._curve.append(self._error(judge, torch.Generator(rng.device).manual_seed(seed)))
            if self._curve[-1] < best:
                best, self._best = self._curve[-1], copy.deepcopy(self.decoder.state_dict())
        if not math.isfinite(best):
            raise UserError(f"decoder: the error is {self._curve[-1]} in every epoch; lower lr ({self.lr})")
        self.decoder.load_state_dict(self._best)

    def _build(self, victim: Victim, seen: Observations, size: int, rng: torch.Generator) -> None:
        shape = seen.wire(torch.zeros(1, dtype=torch.long, device=victim.device), rng).shape[1:]
        with torch.random.fork_rng():  # layers draw their weights from torch's global generator
            torch.manual_seed(rng.initial_seed())
            decoder = decoders.build(self.network, feature_shape=tuple(shape), image_size=size)
        self.decoder: nn.Module = decoder.to(victim.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if fastconv.worth_it() and victim.device.type == "cpu":
            fastconv.accelerate(self.decoder)

    def _step(self, train: Observations, index: Tensor, optimizer: torch.optim.Optimizer, rng: torch.Generator) -> None:
        loss = mse_loss(self.decoder(train.wire(index, rng)), train.images(index))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def _error(self, judge: Observations, rng: torch.Generator) -> float:
        self.decoder.eval()
        total = 0.0
        for index in torch.arange(len(judge), device=rng.device).split(BATCH):
            total += float((self.decoder(judge.wire(index, rng)) - judge.images(index)).square().mean((1, 2, 3)).sum())
        return total / len(judge)

    @torch.no_grad()
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return torch.cat([self.decoder.eval()(part) for part in wire.split(BATCH)]).clamp(0, 1)

    def curve(self) -> list[float]:
        return list(self._curve)
