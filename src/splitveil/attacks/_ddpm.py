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
from ..randomness import seed_layers
from ..runtime import State, Work, copy_weights
from ._denoiser import LEVELS, Denoiser
from .base import BATCH, Extent

RATE = 3e-3
"""Adam's initial rate."""
LONGEST = 0.999
"""Decay of the average of the weights; shorter in the first steps."""
SAMPLE = 4096
"""Images that give the Gaussian model, and at most so many that judge an epoch."""


def score(noise: Tensor, alpha: Tensor) -> Tensor:
    """∇ log p_t(x_t) from the noise that is expected in x_t, −ε_θ(x_t, t)/√(1 − ᾱ_t) (Song et al. 2021).

    >>> score(torch.tensor(0.3), torch.tensor(0.75))
    tensor(-0.6000)
    """
    return -noise / (1 - alpha).sqrt()


def clean(x: Tensor, noise: Tensor, alpha: Tensor) -> Tensor:
    """E[y | x_t] from the noise that is expected in x_t, (x_t − √(1 − ᾱ_t) ε)/√ᾱ_t (Tweedie's formula).

    >>> clean(torch.tensor(0.6), torch.tensor(0.2), torch.tensor(0.25))
    tensor(0.8536)
    """
    return (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def paired(count: int, samples: int, shape: torch.Size, rng: torch.Generator) -> Tensor:
    """Normal noise (count · samples, ...): of each image's samples, the second, fourth ... oppose the one before.

    What a sample owes to its noise linearly is then absent from their mean (antithetic variates).
    """
    half = torch.randn(count, (samples + 1) // 2, *shape, generator=rng, device=rng.device)
    return torch.stack([half, -half], 2).flatten(1, 2)[:, :samples].flatten(0, 1)


@dataclass(frozen=True)
class Ddpm:
    """Settings of the model and of its training.

    Args:
        epochs: passes over the images; 0: the Gaussian model alone. width: channels of the U-Net at full size.
    """

    epochs: int
    width: int
    batch_size: int

    def memory(self, extent: Extent) -> dict[str, int]:
        """Return what the training takes, as `Attack.memory`."""
        batch, pixels = extent.batch(self.batch_size) if self.epochs else 1, extent.image
        return trained("width", lambda: _Halfway(torch.zeros(2, *pixels, device="cpu"), self.width), batch, *pixels)

    def learn(self, images: Split, judge: Split, rng: torch.Generator, work: Work) -> tuple[Denoiser, list[float]]:
        """A trained denoiser, frozen, and after each epoch its error on ``judge``: E‖ε − ε_θ(x_t, t)‖²/d.

        Adam with a cosine to zero; the weights are averaged over the steps (Ho et al. 2020), and of the averages that
        epoch is kept which is best on ``judge``, as few images are soon learned by heart. Where none is better than
        the Gaussian model, that remains.
        """
        images, judge = images.to(rng.device), judge.to(rng.device)
        with torch.random.fork_rng():  # layers draw their weights from torch's global generator
            seed_layers(rng)
            net = Denoiser(2 * to_float(images.images[:SAMPLE]) - 1, self.width)
        net = net.to(rng.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        if fastconv.worth_it() and rng.device.type == "cpu":
            fastconv.accelerate(net)
        average = copy.deepcopy(net)
        optimizer = torch.optim.Adam(net.parameters(), RATE)
        state: State = {"net": net, "average": average, "optimizer": optimizer, "curve": []}
        state |= {"best": held_out_error(average, judge), "weights": copy_weights(average)}
        if self.epochs:
            self._train(state, images, judge, rng, work)
        average.load_state_dict(state["weights"])
        return average.requires_grad_(False), state["curve"]

    def _train(self, state: State, images: Split, judge: Split, rng: torch.Generator, work: Work) -> None:
        net, average, optimizer = state["net"], state["average"], state["optimizer"]
        loop = work.loop("ddpm", self.epochs, state, rng, per_round=math.ceil(len(images) / self.batch_size))
        for _ in loop:
            order = torch.randperm(len(images), generator=rng, device=rng.device)
            for index in loop.steps(order.split(self.batch_size)):
                loop.anneal(optimizer, RATE, 0.0)
                optimizer.zero_grad(set_to_none=True)
                _error(net, images.images[index], rng).backward()
                optimizer.step()
                _follow(average, net, min(LONGEST, (1 + loop.done) / (10 + loop.done)))
            loop.error = held_out_error(average, judge)
            state["curve"].append(loop.error)
            if loop.error < state["best"]:
                state |= {"best": loop.error, "weights": copy_weights(average)}


class _Halfway(Denoiser):
    """A denoiser of images at the middle level."""

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        return super().forward(x, torch.full((len(x),), LEVELS // 2) if t is None else t)


@torch.no_grad()
def held_out_error(net: Denoiser, judge: Split) -> float:
    """Error on at most 4,096 images, each at one level and with noise that are the same whenever this is asked."""
    rng = torch.Generator(judge.images.device).manual_seed(0)
    parts = judge.images[:SAMPLE].split(BATCH)
    return sum(float(_error(net, part, rng)) * len(part) for part in parts) / sum(map(len, parts))


def _error(net: Denoiser, images: Tensor, rng: torch.Generator) -> Tensor:
    """Mean squared error of the expected noise at levels drawn evenly."""
    y = 2 * to_float(images) - 1
    t = torch.randint(LEVELS, (len(y),), generator=rng, device=y.device)
    noise = torch.randn(y.shape, generator=rng, device=y.device)
    alpha = net.alpha[t].view(-1, 1, 1, 1)
    return mse_loss(net(alpha.sqrt() * y + (1 - alpha).sqrt() * noise, t), noise)


@torch.no_grad()
def _follow(average: Denoiser, net: Denoiser, decay: float) -> None:
    for kept, now in zip(average.parameters(), net.parameters(), strict=True):
        kept.lerp_(now, 1 - decay)
