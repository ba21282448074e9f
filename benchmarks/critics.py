"""Small trained estimators of mutual information for benchmarks/estimators.py: InfoNCE, NWJ, MINE, CLUB.

They learn from pairs (z, w), wire w = z + noise, with noise that is drawn anew in every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from splitveil.bounds.base import Channel

STEPS, EVERY, BATCH, WIDTH, RATE = 400, 40, 128, 128, 5e-4
SHIFTS = {"train": 1, "score": 32}
"""How often each batch is shifted against itself for pairs that do not belong together."""


class Critic(nn.Module):
    """f(z, w): a network of the concatenated pair, or φ(z)·ψ(w) of two networks where all pairs of a batch are wanted.

    Args:
        dimension: of z and of w.
        scales: standard deviations of both, by which they are divided.
        separable: the second form.
    """

    def __init__(self, dimension: int, scales: tuple[Tensor, Tensor], separable: bool):
        super().__init__()
        self.scales, inputs, outputs = scales, 2 * dimension, 1
        if separable:
            inputs, outputs = dimension, WIDTH // 2
        self.networks = nn.ModuleList(network(inputs, outputs) for _ in range(1 + separable))

    def forward(self, z: Tensor, w: Tensor) -> Tensor:
        sides = z / self.scales[0], w / self.scales[1]
        if len(self.networks) == 1:
            return self.networks[0](torch.cat(sides, 1)).squeeze(1).double()
        left, right = (part(side) for part, side in zip(self.networks, sides, strict=True))
        return (left @ right.T).double()

    def contrast(self, z: Tensor, w: Tensor, shifts: int) -> tuple[Tensor, Tensor]:
        """Mean of f over pairs, and the logarithm of the mean of exp f over pairs that do not belong together."""
        others = torch.cat([self(z, w.roll(by, 0)) for by in range(1, shifts + 1)])
        return self(z, w).mean(), others.logsumexp(0) - math.log(len(others))


class Regression(nn.Module):
    """The q(w|z) of CLUB: a Gaussian with a network's mean and diagonal variance."""

    def __init__(self, dimension: int, scales: tuple[Tensor, Tensor]):
        super().__init__()
        self.network, self.scales = network(dimension, 2 * dimension), scales

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.network(z / self.scales[0]).double().chunk(2, 1)
        return mean * self.scales[1], log_variance.clamp(-30, 10).exp() * self.scales[1].square()


def network(inputs: int, outputs: int) -> nn.Sequential:
    """Two hidden layers."""
    hidden = [nn.Linear(inputs, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(WIDTH, outputs))


class InfoNCE:
    """van den Oord et al. 2018: at most the logarithm of the number of pairs that are compared."""

    def __init__(self, dimension: int, scales: tuple[Tensor, Tensor]):
        self.model: nn.Module = Critic(dimension, scales, separable=True)

    def loss(self, z: Tensor, w: Tensor) -> Tensor:
        return -self._value(z, w)

    def scores(self, z: Tensor, w: Tensor) -> tuple[float, float]:
        """The answer about given pairs, and what the step is chosen by (higher is better)."""
        value = float(self._value(z, w))
        return value, value

    def _value(self, z: Tensor, w: Tensor) -> Tensor:
        scores = self.model(z, w)
        return (scores.diagonal() - scores.logsumexp(1)).mean() + math.log(len(z))


class NWJ:
    """Nguyen, Wainwright and Jordan 2010: E f − E' exp(f − 1)."""

    def __init__(self, dimension: int, scales: tuple[Tensor, Tensor]):
        self.model = Critic(dimension, scales, separable=False)

    def loss(self, z: Tensor, w: Tensor) -> Tensor:
        together, others = self.model.contrast(z, w, SHIFTS["train"])
        return (others - 1).exp() - together

    def scores(self, z: Tensor, w: Tensor) -> tuple[float, float]:
        """As of `InfoNCE`."""
        together, others = self.model.contrast(z, w, SHIFTS["score"])
        value = float(together - (others - 1).exp())
        return value, value


class MINE(NWJ):
    """Belghazi et al. 2018: E f − ln E' exp f; a running mean takes the bias of batches out of the gradient."""

    running: Tensor | None = None

    def loss(self, z: Tensor, w: Tensor) -> Tensor:
        together, others = self.model.contrast(z, w, SHIFTS["train"])
        now = others.detach()
        old = now if self.running is None else self.running
        self.running = torch.logaddexp(old + math.log(0.99), now + math.log(0.01))
        return (others - self.running).exp() - together

    def scores(self, z: Tensor, w: Tensor) -> tuple[float, float]:
        """As of `InfoNCE`."""
        together, others = self.model.contrast(z, w, SHIFTS["score"])
        value = float(together - others)
        return value, value


class CLUB:
    """Cheng et al. 2020: the mean of log q(w_i|z_i) − log q(w_j|z_i); the step is chosen by the likelihood of q."""

    def __init__(self, dimension: int, scales: tuple[Tensor, Tensor]):
        self.model = Regression(dimension, scales)

    def loss(self, z: Tensor, w: Tensor) -> Tensor:
        mean, variance = self.model(z)
        return 0.5 * ((w - mean).square() / variance + variance.log()).sum(1).mean()

    def scores(self, z: Tensor, w: Tensor) -> tuple[float, float]:
        """As of `InfoNCE`."""
        mean, variance = self.model(z)
        return club(mean, variance, w.double()), -float(self.loss(z, w))


def club(mean: Tensor, variance: Tensor, w: Tensor) -> float:
    """The difference of CLUB for q(w|z_i) = N(mean_i, variance_i); all (N, D)."""
    together = (w - mean).square()
    all_pairs = w.square().mean(0) - 2 * mean * w.mean(0) + mean.square()
    return float(((all_pairs - together) / variance).sum(1).mean() / 2)


ESTIMATORS: dict[str, Callable[[int, tuple[Tensor, Tensor]], InfoNCE | NWJ | CLUB]] = {
    "InfoNCE": InfoNCE,
    "NWJ": NWJ,
    "MINE": MINE,
    "CLUB": CLUB,
}


def trained(name: str, channel: Channel, rng: torch.Generator) -> dict[str, float]:
    """Train one; its answer about images that it never saw, and at the last step about those that it was trained on."""
    laws = {part: channel.conditional(part) for part in ("fit", "choose", "held_out")}
    pairs = {part: (law.mean.float(), law.draw(rng).float()) for part, law in laws.items()}
    z, w = pairs["fit"]
    noise = laws["fit"].variance.sqrt().float()
    with torch.random.fork_rng():
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=rng)))
        made = ESTIMATORS[name](z.shape[1], (z.std(0), w.std(0)))
    optimizer = torch.optim.Adam(made.model.parameters(), RATE)
    best, found = -math.inf, {}
    for step in range(1, STEPS + 1):
        rows = torch.randperm(len(z), generator=rng)[:BATCH]
        loss = made.loss(z[rows], z[rows] + noise[rows] * torch.randn(z[rows].shape, generator=rng))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(made.model.parameters(), 1.0)
        optimizer.step()
        if step % EVERY == 0 or step == STEPS:
            with torch.no_grad():
                choice = made.scores(*pairs["choose"])[1]
                if choice > best:
                    best, found = choice, {"value": made.scores(*pairs["held_out"])[0], "step": step}
    if not found:
        raise RuntimeError(f"{name} gave no finite answer at any step")
    with torch.no_grad():
        return found | {"in_sample": made.scores(z, w)[0]}
