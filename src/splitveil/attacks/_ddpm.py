"""A denoising diffusion model of the attacker's images: its training, its score, and its guess of a noisy image."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ..data import Split, to_float
from ..memory import trained
from ..nn import fastconv
from ..randomness import seeded_layers
from ..runtime import Runtime, State, copy_weights
from ._denoiser import LEVELS, Denoiser
from .base import BATCH, Extent

RATE = 3e-3
"""Adam's initial rate."""
LONGEST = 0.999
"""Decay of the average of the weights; shorter in the first steps."""
SAMPLE = 4096
"""Most images that the Gaussian model is fitted on, and most on which an epoch is scored."""


def score(noise: Tensor, alpha: Tensor) -> Tensor:
    """Return ∇ log p_t(x_t) from the noise expected in x_t, −ε_θ(x_t, t)/√(1 − ᾱ_t) (Song et al. 2021).

    >>> score(torch.tensor(0.3), torch.tensor(0.75))
    tensor(-0.6000)
    """
    return -noise / (1 - alpha).sqrt()


def clean(x: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """Return E[y | x_t] from the noise expected in x_t, (x_t − √(1 − ᾱ_t) ε)/√ᾱ_t (Tweedie's formula).

    >>> clean(torch.tensor(0.6), torch.tensor(0.2), torch.tensor(0.25))
    tensor(0.8536)
    """
    return (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def paired(count: int, samples: int, shape: torch.Size, rng: torch.Generator) -> Tensor:
    """Return normal noise (count · samples, ...) in pairs of opposite signs among each image's samples.

    The part of a sample that is linear in its noise is then absent from their mean (antithetic variates).
    """
    half = torch.randn(count, (samples + 1) // 2, *shape, generator=rng, device=rng.device)
    return torch.stack([half, -half], 2).flatten(1, 2)[:, :samples].flatten(0, 1)


@dataclass(frozen=True)
class Ddpm:
    """Settings of the model and of its training.

    Args:
        epochs: passes over the images; 0: the Gaussian model alone.
        width: channels of the U-Net at full size.
        batch_size: images in a batch.
    """

    epochs: int
    width: int
    batch_size: int

    def memory(self, extent: Extent) -> dict[str, int]:
        """Return the memory that the training takes, as `Attack.memory` does."""
        batch, pixels = extent.batch(self.batch_size) if self.epochs else 1, extent.image
        return trained("width", lambda: _Halfway(torch.zeros(2, *pixels, device="cpu"), self.width), batch, *pixels)

    def learn(
        self, images: Split, held_out: Split, rng: torch.Generator, runtime: Runtime
    ) -> tuple[Denoiser, list[float]]:
        """Return a trained denoiser, frozen, and after each epoch its error on ``held_out``: E‖ε − ε_θ(x_t, t)‖²/d.

        Train by Adam with a cosine to zero, and average the weights over the steps (Ho et al. 2020). Keep the average
        of the epoch that is best on ``held_out``, as few images are soon learned by heart; where none is better than
        the Gaussian model, keep that.
        """
        images, held_out = images.to(rng.device), held_out.to(rng.device)
        with seeded_layers(rng):
            net = Denoiser(2 * to_float(images.images[:SAMPLE]) - 1, self.width)
        fastconv.placed(net, rng.device)
        average = copy.deepcopy(net)
        optimizer = torch.optim.Adam(net.parameters(), RATE)
        state: State = {"net": net, "average": average, "optimizer": optimizer, "curve": []}
        state |= {"best": held_out_error(average, held_out), "weights": copy_weights(average)}
        if self.epochs:
            self._train(state, images, held_out, rng, runtime)
        average.load_state_dict(state["weights"])
        return average.requires_grad_(False), state["curve"]

    def _train(self, state: State, images: Split, held_out: Split, rng: torch.Generator, runtime: Runtime) -> None:
        net, average, optimizer = state["net"], state["average"], state["optimizer"]
        loop = runtime.loop("ddpm", self.epochs, state, rng, per_round=math.ceil(len(images) / self.batch_size))
        for _ in loop:
            order = torch.randperm(len(images), generator=rng, device=rng.device)
            for index in loop.steps(order.split(self.batch_size)):
                loop.anneal(optimizer, RATE, 0.0)
                optimizer.zero_grad(set_to_none=True)
                _error(net, images.images[index], rng).backward()
                optimizer.step()
                _follow(average, net, min(LONGEST, (1 + loop.done) / (10 + loop.done)))
            loop.error = held_out_error(average, held_out)
            state["curve"].append(loop.error)
            if loop.error < state["best"]:
                state |= {"best": loop.error, "weights": copy_weights(average)}


class _Halfway(Denoiser):
    """A denoiser of images at the middle level."""

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return super().forward(x, torch.full((len(x),), LEVELS // 2) if t is None else t)


@torch.no_grad()
def held_out_error(net: Denoiser, held_out: Split) -> float:
    """Return the error on at most 4,096 images, each always at the same level and with the same noise."""
    rng = torch.Generator(held_out.images.device).manual_seed(0)
    parts = held_out.images[:SAMPLE].split(BATCH)
    return sum(float(_error(net, part, rng)) * len(part) for part in parts) / sum(map(len, parts))


def _error(net: Denoiser, images: Tensor, rng: torch.Generator) -> Tensor:
    """Return the mean squared error of the expected noise at levels drawn evenly."""
    y = 2 * to_float(images) - 1
    t = torch.randint(LEVELS, (len(y),), generator=rng, device=y.device)
    noise = torch.randn(y.shape, generator=rng, device=y.device)
    alpha = net.alpha[t].view(-1, 1, 1, 1)
    return mse_loss(net(alpha.sqrt() * y + (1 - alpha).sqrt() * noise, t), noise)


@torch.no_grad()
def _follow(average: Denoiser, net: Denoiser, decay: float) -> None:
    for kept, now in zip(average.parameters(), net.parameters(), strict=True):
        kept.lerp_(now, 1 - decay)
