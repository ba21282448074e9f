"""A critic that tells a wire's own feature from others, trained without global randomness."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, gelu

from ._jackknife import at_cap, terms
from .base import Channel

WIDEST = 1024
"""Values above which wires and features are summed, with random signs, into so many."""
RANK, HIDDEN = 512, 256
FEWEST = 1e-3
"""Least deviation of the noise, as a part of the feature's."""
RATE, DECAY = 1e-3, 1e-2
EVERY, PATIENCE = 20, 3
"""Steps between two trials on the ``choose`` images, and trials without a gain after which the training ends."""
SCALES = (0.0, 0.03, 0.1, 0.3, 0.6, 1.0)
"""Factors of the scores that are tried there too: a critic that is too sure says less than nothing."""
MOST = 4000
"""Most images of a trial."""


@dataclass
class View:
    """A change of features and wires into vectors that a critic compares.

    Attributes:
        shift, scale: mean of the features and deviation of the noise, (m,).
        bucket, signs: of the random sums (count sketch, Charikar et al. 2002), (D,); None: there are few values.
    """

    shift: Tensor
    scale: Tensor
    bucket: Tensor | None
    signs: Tensor | None

    def __call__(self, rows: Tensor) -> Tensor:
        """Return vectors of features or wires (B, ...), (B, m)."""
        flat = rows.flatten(1).float()
        if self.bucket is not None and self.signs is not None:
            empty = torch.zeros(len(flat), WIDEST, device=flat.device)
            flat = empty.index_add_(1, self.bucket, flat * self.signs)
        return (flat - self.shift) / self.scale


def view_of(channel: Channel, rng: torch.Generator) -> View:
    """Return the view in units of the noise, measured on the ``fit`` images."""
    z = channel.features("fit")
    size, bucket, signs = z[0].numel(), None, None
    if size > WIDEST:
        bucket = torch.randint(WIDEST, (size,), generator=rng, device=z.device)
        signs = torch.randint(0, 2, (size,), generator=rng, device=z.device) * 2.0 - 1
    view = View(z.new_zeros(()), z.new_ones(()), bucket, signs)
    clean, wires = view(z), view(channel.model.protect(z, rng))
    spread = clean.std(0)
    floor = FEWEST * torch.maximum(spread, spread.mean()) + 1e-12
    return View(clean.mean(0), torch.maximum((wires - clean).std(0), floor), bucket, signs)


class Critic:
    """s(z, z_wire) = ⟨g(z), h(z_wire)⟩ − ½ ‖g(z)‖²: two networks of one hidden layer, the same projection at first.

    The projection starts at the leading directions of the feature in units of the noise. For Gaussian noise the score
    is then the log likelihood there but for a term of the wire alone, and training has only to keep it.

    Args:
        features: of the ``fit`` images, as the view shows them, (N, m).
        rng: generator of the weights.
    """

    def __init__(self, features: Tensor, rng: torch.Generator):
        size = features.shape[1]
        covariance = torch.cov(features.T.double()).view(size, size)
        directions = torch.linalg.eigh(covariance)[1].flip(1)[:, :RANK].float()
        self.factor, self.weights = 1.0, []
        for _ in range(2):
            first = torch.randn(size, HIDDEN, generator=rng, device=features.device) / size
            second = torch.zeros(HIDDEN, directions.shape[1], device=features.device)
            self.weights += [weight.requires_grad_() for weight in (directions.clone(), first, second)]

    def __call__(self, features: Tensor, wires: Tensor) -> Tensor:
        """Return the score of each wire (B, m) with each feature (K, m), (B, K)."""
        a, b = _projected(features, *self.weights[:3]), _projected(wires, *self.weights[3:])
        return self.factor * (b @ a.T - 0.5 * a.square().sum(1))


def learned(channel: Channel, rng: torch.Generator, steps: int = 200, batch_size: int = 128) -> tuple[View, Critic]:
    """Return a critic that learned on the ``fit`` images with fresh wires, in the state that is best on ``choose``.

    Args:
        channel: model and images.
        rng: generator of weights, batches and wires.
        steps: of AdamW, at most; 0: distances in units of the noise alone.
        batch_size: images in a step.
    """
    with torch.no_grad():
        view = view_of(channel, rng)
    z = channel.features("fit")
    critic = Critic(view(z), rng)

    def scores(z: Tensor) -> Tensor:
        with torch.no_grad():
            seen = view(z), view(channel.model.protect(z, rng))
        return critic(*seen)

    def own(scores: Tensor) -> Tensor:
        return torch.arange(len(scores), device=z.device)

    optimizer = torch.optim.AdamW(critic.weights, RATE, weight_decay=DECAY)
    best: tuple[float, float, list[Tensor]] = (-math.inf, 0.0, [])
    trials = 0  # without a gain
    for step in range(steps + 1):
        if step % EVERY == 0 or step == steps:
            with torch.no_grad():
                found = scores(channel.features("choose")[:MOST])
            value, factor = max((float(terms(factor * found, own(found)).mean()), factor) for factor in SCALES)
            trials += 1
            if value > best[0]:
                best, trials = (value, factor, [weight.detach().clone() for weight in critic.weights]), 0
            if trials == PATIENCE or at_cap(value, len(found)):  # there training has nothing to gain
                break
        if step < steps:
            optimizer.zero_grad(set_to_none=True)
            with torch.enable_grad():
                found = scores(z[torch.randperm(len(z), generator=rng, device=rng.device)[:batch_size]])
                cross_entropy(found, own(found)).backward()
            optimizer.step()
    _, critic.factor, critic.weights = best
    return view, critic


def _projected(rows: Tensor, straight: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return rows @ straight + gelu(rows @ first) @ second
