"""White-box search in the latent space of a generator that was trained on the attacker's images (GLASS)."""

from __future__ import annotations

import math
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..data import Access, Split, to_float
from ..errors import UserError
from ..memory import FLOAT, trained
from ..randomness import seeded_layers
from ..ranges import Batch, Count, Rate, Weight
from ..registry import plugin
from ..runtime import Runtime
from ..zoo import decoders
from ._hidden import nearest
from ._white_box import ROWS, WhiteBox
from .base import BATCH, Attack, Extent, Victim

PIXEL_NOISE = 0.05
"""Standard deviation, in pixels, of what the generator leaves unexplained: sets the weight of its prior."""


@plugin("latent")
class LatentAttack(Attack):
    """Latent search: x̂ = G(w), w minimizes the distance on the wire plus what the prior of w allows.

    ‖E_ε D(f(G(w)), ε) − z_wire‖²/(m v) + l2 · ‖w‖²/k with v as in `rmle`, by Adam from the best of many sampled w (Li
    et al. 2023, GLASS). G is the decoder half of a variational autoencoder (Kingma and Welling 2014) of the attacker's
    images, so that its answers are always images like those; GLASS has a StyleGAN. Where several backward passes are
    possible (see `WhiteBox`), each image keeps the one that comes nearer on the wire.

    Args:
        epochs: passes of the generator over the attacker's images. steps: Adam steps of the search.
        size: k, numbers in w. samples: latents that are tried first. l2: weight of the prior.
        lr: rate of the search. network: generator network. draws: draws of the defense's noise in each step.
    """

    needs: ClassVar = frozenset({Access.QUERY, Access.WEIGHTS})
    all_looks: ClassVar = True
    iterates: ClassVar = True

    def __init__(
        self,
        epochs: Count = 50,
        steps: Count = 1000,
        size: Count = 128,
        samples: Count = 1024,
        l2: Weight = 0.01,
        lr: Rate = 3e-2,
        network: decoders.Network = "dense_normN2C64",
        draws: Count = 4,
        batch_size: Batch = BATCH,
    ):
        self.epochs, self.steps, self.size, self.samples, self.batch_size = epochs, steps, size, samples, batch_size
        self.l2, self.lr, self.network, self.draws = l2, lr, network, draws

    def memory(self, extent: Extent) -> dict[str, int]:
        build = partial(decoders.build, self.network, feature_shape=(self.size, 1, 1), image_size=extent.image)
        sampled = self.samples * (FLOAT * (self.size + extent.answered) + extent.wire_bytes)
        learned = trained("size or network", build, extent.batch(self.batch_size), self.size, 1, 1)
        return {**learned, "samples": sampled, **extent.search(self.draws)}

    def fit(self, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime | None = None) -> None:
        victim.require(*self.needs)
        if len(images) < 2:
            raise UserError(f"latent: the attacker has {len(images)} images; expected at least 2")
        self._runtime, images = runtime or Runtime(), images.to(victim.device)
        few = torch.randperm(len(images), generator=rng, device=rng.device)[:ROWS]  # they may be sorted by class
        self.box = WhiteBox(victim, images.subset(few.to(images.images.device)), self.draws, rng)
        with seeded_layers(rng):
            generator = decoders.build(self.network, feature_shape=(self.size, 1, 1), image_size=images.shape)
            self.generator = generator.to(victim.device)
            encoder = _encoder(images.shape, 2 * self.size).to(victim.device)
        self._train(encoder, images, rng)
        self.generator.eval().requires_grad_(False)
        self._seed = int(torch.randint(2**31, (), generator=rng, device=rng.device))

    def _train(self, encoder: nn.Module, images: Split, rng: torch.Generator) -> None:
        optimizer = torch.optim.Adam([*encoder.parameters(), *self.generator.parameters()], 1e-3)
        state = {"encoder": encoder, "generator": self.generator, "optimizer": optimizer}
        per_round = math.ceil(len(images) / self.batch_size)
        loop = self._runtime.loop("generator", self.epochs, state, rng, per_round=per_round)
        for _ in loop:
            order = torch.randperm(len(images), generator=rng, device=rng.device)
            for index in loop.steps(order.split(self.batch_size)):
                if len(index) < 2:
                    continue  # batch norm needs two
                x = to_float(images.images[index])
                mean, log_variance = encoder(x).chunk(2, 1)
                noise = torch.randn(mean.shape, generator=rng, device=x.device)
                rebuilt = self.generator((mean + (log_variance / 2).exp() * noise)[:, :, None, None])
                error = (rebuilt - x).square().flatten(1)
                loss = error.sum(1).mean() / (2 * PIXEL_NOISE**2) + divergence(mean, log_variance).mean()
                optimizer.zero_grad(set_to_none=True)
                (loss / error.shape[1]).backward()
                optimizer.step()

    @torch.enable_grad()
    def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
        rng = torch.Generator(wire.device).manual_seed(self._seed)
        target = self.box.target(wire)
        first = self._sampled(wire, rng)
        best, images = torch.full((len(wire),), math.inf, device=wire.device), torch.empty(0)
        for mode in self._runtime.each(self.box.modes):
            latent = first.clone().requires_grad_()
            optimizer = torch.optim.Adam([latent], self.lr)
            for _ in self._runtime.loop(f"search {mode}", self.steps, {"latent": latent, "optimizer": optimizer}, rng):
                loss = self.box.feature_loss(self._images(latent), target, rng, mode)
                optimizer.zero_grad(set_to_none=True)
                (loss + self.l2 * latent.square().mean(1)).sum().backward()
                optimizer.step()
            with torch.no_grad():
                found = self._images(latent)
                loss = self.box.feature_loss(found, target, rng, mode, 8 * self.box.draws)
                images = torch.where((loss < best)[:, None, None, None], found, images) if len(images) else found
                best = torch.minimum(loss, best)
        return images.clamp(0, 1)

    def _images(self, latent: Tensor) -> Tensor:
        return self.generator(latent[:, :, None, None])

    @torch.no_grad()
    def _sampled(self, wire: Tensor, rng: torch.Generator) -> Tensor:
        """Return, for each wire, the best of the sampled latents, which are the same for every wire."""
        latents = torch.randn(self.samples, self.size, generator=rng, device=wire.device)
        wires = torch.cat([self.box.wire(self._images(part), rng) for part in latents.split(BATCH)])
        return latents[nearest(*self.box.comparable(wire), wires)]


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) ‖ N(0, I)) in nats for each row, ½ Σ (μ² + s² − 1 − ln s²): (B, k) twice -> (B,).

    >>> divergence(torch.ones(1, 2), torch.zeros(1, 2))
    tensor([1.])
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def _encoder(image: decoders.ImageShape, outputs: int, width: int = 32) -> nn.Module:
    colors, *sides = image[0], *(min(8, math.ceil(pixels / 4)) for pixels in image[1:])
    return nn.Sequential(
        nn.Conv2d(colors, width, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.LeakyReLU(0.2),
        nn.AdaptiveAvgPool2d(tuple(sides)), nn.Flatten(), nn.Linear(2 * width * math.prod(sides), outputs),
    )  # fmt: skip
