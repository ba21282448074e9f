"""Linkage: whether the wire tells which of the known photos was sent."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ..registry import plugin
from ..statistics.intervals import Interval, bounded_ci
from ._closer import AT_ONCE, before, closer, counted, likelier
from ._critic import learned
from ._fano import fano
from .base import Bound, BoundError, Channel, Conditional, Estimate

GALLERIES = (10, 100, 1000, 10_000)
Top = Annotated[int, Field(ge=1, lt=GALLERIES[-1])]
ASSUMPTIONS = (
    "The attacker has the encoder and a gallery of candidate images that holds the one that was sent.",
    "Candidates are drawn from the population of the images; one wire of the image is seen.",
)

NEVER = "It never exceeds ln {n:,} = {most:.3g} nats, however much leaks: where the photo is found, it says no more."


@plugin("linkage")
class Linkage(Bound):
    """Bound from below how often an attacker finds the right photo among N candidates.

    The attacker sends every candidate through the encoder and picks the one under which the wire is most likely: for
    Gaussian noise that of the highest density (the nearest in units of the noise, where that is the same for all
    images), for any other defense the best by a critic that learned on images and wires of its own (that of `infonce`).
    That this attacker exists bounds the best one from below. The probability over random galleries is exact: if r of
    the M − 1 other images are likelier than the right one, it is among the first k of N with the probability that at
    most k − 1 of these r are in a draw of N − 1 (hypergeometric). The M are the held-out images; a gallery that needs
    more takes all images where nothing has learned from them (Gaussian noise).

    By Fano's inequality the top-1 probability p of the largest gallery says that at least
    ln N − h(p) − (1 − p) ln(N − 1) nats leak, h the binary entropy.

    Args:
        top: k; the right photo is among the first k.

    >>> from splitveil.bounds._examples import linear_channel
    >>> found = Linkage().estimate(linear_channel(sigma=0.01)[0], torch.Generator().manual_seed(0))
    >>> found[0].value > 0.99, found[0].about
    (True, 'the right photo among 10, chance 10 %')
    """

    revision = 4  # the likeliest candidate where the noise depends on the image

    def __init__(self, top: Top = 1):
        self.top = top

    @torch.no_grad()
    def estimate(self, channel: Channel, rng: torch.Generator) -> list[Estimate]:
        nearer, everywhere, images = _nearer(channel, rng)
        found, size = [], 0
        for size in (size for size in GALLERIES if self.top < size <= images):
            among, of = (nearer, nearer.shape[1]) if size <= nearer.shape[1] else (everywhere, images)
            interval = bounded_ci(_chances(among, self.top, of, size))
            first = "the right photo" if self.top == 1 else f"the right photo within the first {self.top}"
            about = f"{first} among {size:,}, chance {100 * self.top / size:.2g} %"
            found.append(Estimate(interval.mean, "lower", "success", about, ASSUMPTIONS, of, interval))
        if not found:
            least = next(size for size in GALLERIES if size > self.top)
            raise BoundError(f"{images:,} images; linkage with top={self.top} needs a gallery of at least {least:,}")
        if self.top == 1:
            found.append(_leakage(found[-1], size))
        return found


def _chances(counts: Tensor, top: int, images: int, size: int) -> np.ndarray:
    """Return how probably the right photo is among the first ``top``, (M,), where the attacker chooses between equals.

    The mean over the ranks that it can have: behind the nearer ones, and behind none to all of those that are as near.
    """
    from scipy.stats import hypergeom

    table = hypergeom.cdf(top - 1, images - 1, np.arange(images), size - 1)
    sums = np.concatenate([[0.0], table.cumsum()])
    nearer, ties = counts.cpu().numpy()
    return ((sums[nearer + ties + 1] - sums[nearer]) / (ties + 1)).clip(0, 1)


def _nearer(channel: Channel, rng: torch.Generator) -> tuple[Tensor, Tensor, int]:
    """Return how many candidates are likelier than each held-out wire's own, and as likely, twice, and of how many.

    The first counts the held-out images, the second all images of the channel if a gallery needs so many and nothing
    has learned from them.
    """
    try:
        law = channel.conditional("held_out")
    except BoundError:  # no density: whoever has the encoder can still learn to tell wires apart
        view, critic = learned(channel, rng)
        z = channel.features("held_out")
        features, wires = view(z), view(channel.model.protect(z, rng))
        found = counted(-critic(features, part) for part in wires.split(AT_ONCE))
        return found, found, found.shape[1]
    wires = channel.received("held_out", law, rng)
    found = _among_themselves(wires, law)
    others = [part for part in ("fit", "choose") if getattr(channel, part) is not channel.held_out]
    images = found.shape[1] + sum(len(getattr(channel, part)) for part in others)
    if not any(found.shape[1] < size <= images for size in GALLERIES):
        return found, found, found.shape[1]
    return found, found + sum(_among(wires, law, channel.conditional(part)) for part in others), images


def _among_themselves(wires: Tensor, law: Conditional) -> Tensor:
    """Return how many others of these images are likelier behind each wire than its own, and as likely, (2, M)."""
    if not _alike(law, law):
        return likelier(wires, law, law) - torch.tensor([[0], [1]]).to(wires.device)  # but for itself
    scale = law.variance.mean(0).sqrt()
    return closer(wires / scale, law.mean / scale)


def _among(wires: Tensor, law: Conditional, others: Conditional) -> Tensor:
    """Return how many of the ``others`` are likelier behind each wire than its own image, and as likely, (2, M)."""
    if not (_alike(law, law) and _alike(law, others)):
        return likelier(wires, law, others)
    scale = law.variance.mean(0).sqrt()
    return before(wires / scale, law.mean / scale, others.mean / scale)


def _alike(law: Conditional, others: Conditional) -> bool:
    """Return whether the noise of all is the same, so that the nearest is the likeliest."""
    return bool((others.variance == law.variance[:1]).all())


def _leakage(largest: Estimate, size: int) -> Estimate:
    low = largest.interval.lo if largest.interval else largest.value
    high = largest.interval.hi if largest.interval else largest.value
    interval = Interval(*(fano(p, size) for p in (largest.value, low, high)))
    about = f"Fano's inequality on {size:,} candidates"
    never = NEVER.format(n=size, most=math.log(size))
    return Estimate(interval.mean, "lower", "leakage", about, (*ASSUMPTIONS, never), largest.images, interval)
