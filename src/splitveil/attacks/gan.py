"""A decoder refined against a critic, so that its images look real (WGAN-GP)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ..data import Split
from ..errors import DivergedError
from ..memory import trained
from ..randomness import seeded_layers
from ..ranges import Batch, Count, Rate, Weight
from ..registry import plugin
from ..runtime import Runtime, State, copy_weights
from ..zoo.decoders import ImageShape, Network
from ._critic import Kind, anneal, check, critic, gradient_penalty, update
from ._held_out import Pairs
from .base import BATCH, Attack, Extent, Victim
from .decoder import PATIENCE, DecoderAttack

BETAS = (0.5, 0.999)


@plugin("gan")
class GanAttack(Attack):
    """WGAN-GP refinement of a decoder: its loss is −C(G(z_wire)) + mse_weight · MSE, C a critic of real images.

    Gulrajani et al. 2017, with the loss and the counts of the CEM paper's code: the generator is the `decoder` attack,
    trained first; gradient penalty 10; Adam(0.5, 0.999). The preset ``published/gan`` has its critic, rates, batches
    and modes too. Noise is redrawn in every batch; the epoch is chosen by the error on the held-out tenth of images.

    Args:
        epochs: passes of the refinement over the attacker's images.
        warm_epochs: epochs of the decoder before it; None: those of the decoder attack, at most ``epochs``.
        network: decoder network. mse_weight: weight against the critic. penalty: weight of the gradient penalty.
        critic_steps: critic steps for each generator step. lr: generator's rate, and the critic's without critic_lr.
        width: channels of the critic's first layer. weight_decay, warm_batch_size: of the decoder's own training.
        critic: "plain", or "published", of the CEM paper's code (images of 25 pixels or more).
        cosine: epochs in which both rates would fall to 0 along a cosine; None: they stay.
        evaluation: keep the generator in evaluation mode while the critic learns.
        steps: critic steps, in place of ``epochs``. warm_steps, patience: the decoder's, without a fixed length.

    >>> GanAttack(epochs=3).warm_epochs
    3
    """

    sees_through: ClassVar = True
    instead_of_epochs: ClassVar = "steps"

    def __init__(
        self,
        epochs: Count = 150,
        warm_epochs: Count | None = None,
        network: Network = "res_normN8C64",
        mse_weight: Weight = 1500.0,
        penalty: Weight = 10.0,
        critic_steps: Count = 10,
        lr: Rate = 1e-4,
        width: Count = 64,
        batch_size: Batch = BATCH,
        weight_decay: Weight = 1e-4,
        critic: Kind = "plain",
        critic_lr: Rate | None = None,
        cosine: Count | None = None,
        evaluation: bool = False,
        warm_batch_size: Batch | None = None,
        steps: Count | None = None,
        warm_steps: Count | None = None,
        patience: Count = PATIENCE,
    ):
        self.epochs, self.critic_steps, self.width, self.batch_size = epochs, critic_steps, width, batch_size
        self.warm_epochs = min(epochs, 50) if warm_epochs is None else warm_epochs
        self.mse_weight, self.penalty, self.kind = mse_weight, penalty, critic
        self.rates, self.cosine, self.evaluation, self.steps = (lr, critic_lr or lr), cosine, evaluation, steps
        warm_batch_size = warm_batch_size or batch_size
        self.warm = DecoderAttack(self.warm_epochs, network, 1e-3, weight_decay, warm_batch_size, warm_steps, patience)

    def check(self, wire: tuple[int, ...], size: int) -> None:
        super().check(wire, size)
        check(size, self.kind)

    def memory(self, extent: Extent) -> dict[str, int]:
        pixels = extent.batch(self.batch_size), *extent.image
        return super().memory(extent) | trained("width", lambda: critic(extent.image, self.width, self.kind), *pixels)

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        runtime = runtime or Runtime()
        check(min(images.shape[1:]), self.kind)  # before a decoder is trained
        with runtime.share(0.3):
            held_out, train = self.warm.train_on(victim, images, rng, runtime, "gan")
        generator = self.warm.decoder
        self.build(images.shape, rng)
        pairs = zip((generator, self.critic), self.rates, strict=True)
        optimizers = tuple(torch.optim.Adam(network.parameters(), rate, BETAS) for network, rate in pairs)
        state: State = {"generator": generator, "critic": self.critic, "best": math.inf, "weights": {}, "curve": []}
        state |= dict(zip(("refiner", "judge"), optimizers, strict=True))
        per_round = math.ceil(len(train) / self.batch_size)
        epochs = math.ceil(self.steps / per_round) if self.steps else self.epochs
        loop = runtime.loop("gan", epochs, state, rng, per_round=per_round)
        for _ in loop:
            anneal(optimizers, self.rates, loop.fraction * epochs, self.cosine)
            generator.train(not self.evaluation)
            order = torch.randperm(len(train), generator=rng, device=rng.device)
            for index in loop.steps(order.split(self.batch_size)):
                refine = (loop.done + 1) % self.critic_steps == 0 or loop.done + 1 == loop.planned
                if len(index) > 1:
                    self._step(train, index, optimizers, rng, refine)
            loop.error = self.warm.error(held_out, torch.Generator(rng.device).manual_seed(0))
            state["curve"].append(loop.error)
            if loop.error < state["best"]:
                state |= {"best": loop.error, "weights": copy_weights(generator)}
        self._curve = state["curve"]
        if not math.isfinite(state["best"]):
            raise DivergedError(f"gan: the error is {self._curve[-1]} in every epoch; lower lr {self.rates}")
        generator.load_state_dict(state["weights"])

    def build(self, size: int | ImageShape, rng: torch.Generator) -> None:
        """Build the critic for images of a shape, or of the side of square color images."""
        with seeded_layers(rng):
            self.critic = critic(size, self.width, self.kind).to(rng.device)

    def _step(
        self,
        train: Pairs,
        index: Tensor,
        optimizers: Sequence[torch.optim.Optimizer],
        rng: torch.Generator,
        refine: bool,
    ) -> None:
        real, wire = train.images(index), train.wire(index, rng)
        with torch.no_grad():
            fake = self.warm.decoder(wire)
        loss = self.critic(fake).mean() - self.critic(real).mean()
        update(optimizers[1], loss + self.penalty * gradient_penalty(self.critic, real, fake, rng))
        if refine:
            fake = self.warm.decoder.train()(wire)
            self.warm.decoder.train(not self.evaluation)
            update(optimizers[0], self.mse_weight * mse_loss(fake, real) - self.critic(fake).mean())

    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        return self.warm.reconstruct(wire)

    def curve(self) -> list[float]:
        return list(self._curve)
