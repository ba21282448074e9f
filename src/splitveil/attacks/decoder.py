"""Inversion network: a decoder trained from the wire to the pixels."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ..data import Split
from ..errors import DivergedError
from ..memory import trained
from ..nn import fastconv
from ..randomness import seeded_layers
from ..ranges import Batch, Count, Rate, Weight
from ..registry import plugin
from ..runtime import Runtime, State
from ..zoo import decoders
from ._decoder_training import by_epochs, by_steps
from ._held_out import Pairs, Parts, hold_out
from ._rounding import in_bf16
from ._shared import Shared
from ._shown import Shown, ShownPairs
from .base import BATCH, Attack, Extent, Victim

PATIENCE = 800
"""Number of steps without a lower held-out error after which the rate is cut."""
WITHIN = 100
"""Spread of a wire beyond which, or below one over which, it is scaled (`Shown`)."""


@plugin("decoder")
class DecoderAttack(Attack):
    """Decoder trained on the attacker's images to minimize E‖x − D(z_wire)‖², noise redrawn for each batch.

    With enough capacity and images it tends to the posterior mean E[x | z_wire], whose error is the MMSE. Where entries
    of the wire are hidden, it gets their expected values and, as further channels, the mask (`seen_through`). The
    defaults are the published recipe: Adam 1e-3, weight decay 1e-4, cosine to 1e-5, batch 256, 50 epochs. The best
    epoch is chosen on a tenth of the attacker's own images. With ``steps`` it trains until the error on these no longer
    falls (`Plateau`) and takes the best.

    Args:
        epochs: passes over the attacker's images, where ``steps`` is None.
        network: decoder network: ``res_normNnCc`` (published), ``conv_normNnCc``, ``unet_normNnCc``,
            ``dense_normNnCc``, with n blocks of c channels, ``custom`` or ``custom_released``.
        lr: Adam's initial rate. weight_decay: Adam's L2 penalty.
        steps: most steps of a training without a fixed length; None: ``epochs``.
        patience: its steps without a lower error until the rate is cut.

    >>> DecoderAttack(epochs=2).network
    'res_normN8C64'
    """

    learns = holds_out = sees_through = True
    instead_of_epochs: ClassVar = "steps"

    def __init__(
        self,
        epochs: Count = 50,
        network: decoders.Network = "res_normN8C64",
        lr: Rate = 1e-3,
        weight_decay: Weight = 1e-4,
        batch_size: Batch = BATCH,
        steps: Count | None = None,
        patience: Count = PATIENCE,
    ):
        self.epochs, self.network, self.batch_size = epochs, network, batch_size
        self.lr, self.weight_decay, self.steps, self.patience = lr, weight_decay, steps, patience
        self._curve: list[float] = []
        self._shown: Shown | None = None

    def check(self, wire: tuple[int, ...], size: int) -> None:
        with torch.device("meta"):  # built without memory
            decoders.build(self.network, feature_shape=wire, image_size=size)

    def memory(self, extent: Extent) -> dict[str, int]:
        build = partial(decoders.build, self.network, feature_shape=extent.wire, image_size=extent.image)
        return trained("network", build, extent.batch(self.batch_size), *extent.wire)

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        self.train_on(victim, images, rng, runtime or Runtime(), "decoder")

    def train_on(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime, name: str) -> Parts:
        """Fit, or take over a shared training (`Runtime.fits`); return the held-out images and those learned from."""
        shared = Shared.of(self, victim, images, rng, runtime)
        held_out, train = self.sighted(victim, hold_out(victim, images, rng, name), rng, runtime)
        if shared.made:
            self._build(held_out, rng)
            self._curve = shared.take(self.decoder)
        else:
            self.learn(held_out, train, rng, runtime)
            shared.keep(self.decoder, self._curve)
        return held_out, train

    def sighted(self, victim: Victim, parts: Parts, rng: torch.Generator, runtime: Runtime) -> Parts:
        """Return the same images with their wires as `reconstruct` then shows them to the decoder."""
        with runtime.share(0.2):
            self._shown = shown = Shown.learn(victim, parts[1], rng, WITHIN, runtime)
        return ShownPairs(parts[0], shown), ShownPairs(parts[1], shown)

    def learn(self, held_out: Pairs, train: Pairs, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        """Train on ``train`` and keep the weights that are best on ``held_out``."""
        self._build(held_out, rng)
        optimizer = torch.optim.Adam(self.decoder.parameters(), self.lr, weight_decay=self.weight_decay)
        state: State = {"decoder": self.decoder, "optimizer": optimizer, "precision": ""}
        (by_epochs if self.steps is None else by_steps)(self, state, held_out, train, rng, runtime or Runtime())
        self._curve = state["curve"]
        if not math.isfinite(state["best"]):
            raise DivergedError(f"decoder: the error is {self._curve[-1]} in every epoch; lower lr ({self.lr})")
        self.decoder.load_state_dict(state["weights"])

    def _build(self, seen: Pairs, rng: torch.Generator) -> None:
        first = torch.zeros(1, dtype=torch.long, device=rng.device)
        shape, (channels, height, width) = seen.wire(first, rng).shape[1:], seen.images(first).shape[1:]
        with seeded_layers(rng):
            network = decoders.build(self.network, feature_shape=tuple(shape), image_size=(channels, height, width))
        self.decoder: nn.Module = fastconv.placed(network, rng.device)

    def step(self, train: Pairs, index: Tensor, state: State, rng: torch.Generator) -> None:
        """Take one step on the images ``index``, in bf16 where `in_bf16` allows it for the wires of the first step."""
        wire, optimizer = train.wire(index, rng), state["optimizer"]
        state["precision"] = state["precision"] or ("bf16" if in_bf16(wire) else "fp32")
        with torch.autocast(wire.device.type, torch.bfloat16, enabled=state["precision"] == "bf16"):
            found = self.decoder(wire)
        loss = mse_loss(found.float(), train.images(index))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    @torch.no_grad()
    def error(self, held_out: Pairs, rng: torch.Generator) -> float:
        """Return the mean squared error on ``held_out``, with the decoder in evaluation mode."""
        self.decoder.eval()
        total = torch.zeros((), dtype=torch.float64, device=rng.device)  # read once: reading waits for the device
        for index in torch.arange(len(held_out), device=rng.device).split(BATCH):
            total += (self.decoder(held_out.wire(index, rng)) - held_out.images(index)).square().mean((1, 2, 3)).sum()
        return float(total) / len(held_out)

    @torch.no_grad()
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        seen = self._shown(wire) if self._shown else wire
        return torch.cat([self.decoder.eval()(part) for part in seen.split(BATCH)]).clamp(0, 1)

    def curve(self) -> list[float]:
        return list(self._curve)
