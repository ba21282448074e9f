"""The way to see through one of a known collection of offsets, learned from the attacker's own images."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..defenses._law import Law
from ..runtime import Runtime
from ._drowned import drowned, units
from ._gathered import least
from ._held_out import Pairs
from ._identified import Identified
from ._offsets import Unshifted
from .base import Victim

MOST_PAIRS = 2**26
"""Pairs of offsets times entries of the wire up to which the attacker finds out which one its own images got."""
MOST_ENTRIES = 8192
"""Width of the wire up to which its covariance is learned."""
MOST_HIDDEN = 1024
"""Hidden entries of a wire, on average, up to which they are imputed: each wire has its own system of equations."""
MOST_HELD_OUT = 256
"""Most images on which the ridge is chosen where entries are hidden."""
RIDGES = (1e-2, 1e-3, 3e-2, 1e-4, 0.1, 1e-6, 0.3, 1.0)
"""Ridges among which one is chosen, in units of the mean variance of the feature, in the order of their trial."""


def unshifted(
    victim: Victim, seen: Pairs, law: Law, rng: torch.Generator, held_out: Tensor, runtime: Runtime
) -> Unshifted | None:
    """Return how the offsets are seen through; None where they cannot be.

    There is no collection, it is too large, noise drowns the differences of its offsets, or too much is hidden.

    Args:
        victim: view of the model.
        seen: the attacker's images with their wires.
        law: the offsets, (K, ...), and the noise beside them.
        rng: generator of the defense's noise.
        held_out: rows of the images that choose the ridge.
        runtime: of the attack, whose budget may end each part.
    """
    if law.offsets is None:
        return None
    offsets = law.offsets.flatten(1).double()
    if len(offsets) ** 2 * offsets.shape[1] > MOST_PAIRS or offsets.shape[1] > MOST_ENTRIES or not len(held_out):
        return None
    beside, unit = None if law.beside is None else float(torch.as_tensor(law.beside).double().mean()), units(law)
    if beside is not None and drowned(offsets / unit, beside):
        return None
    hides = law.visible is not None or law.kept is not None
    with runtime.share(0.4):
        own = Identified.of(victim, seen, offsets, unit, hides, rng, runtime)
    others = torch.isin(own.rows, held_out, invert=True)
    if int(others.sum()) < 2 or drowned(offsets / unit, own.variance if beside is None else beside, own.together):
        return None
    ways = (False, True) if hides and own.hidden <= MOST_HIDDEN else (False,)
    if law.visible is not None and True not in ways:
        return None  # `Sight` takes the mask into account, and this could not
    wire, x = seen.wire(held_out, rng), seen.images(held_out).flatten(1)
    moments, tried = partial(own.moments, runtime=runtime, rng=rng), []
    for way in ways:
        with runtime.share(0.4):
            one = Unshifted(victim, offsets, *moments(others, way), hides, way)
            tried.append(_chosen(one, wire, x, runtime, rng))
    best = min(tried, key=lambda one: one.error)
    every = moments(torch.ones_like(others), best.imputes)
    return Unshifted(victim, offsets, *every, hides, best.imputes, best.ridge, best.error)


def _chosen(one: Unshifted, wire: Tensor, x: Tensor, runtime: Runtime, rng: torch.Generator) -> Unshifted:
    """Return this with the ridge that is best for these pairs of wire and image, and its error."""
    some = (wire[:MOST_HELD_OUT], x[:MOST_HELD_OUT]) if one.imputes else (wire, x)
    ridge, error = least(runtime, "ridges", RIDGES, lambda ridge: replace(one, ridge=ridge).squared_error(*some), rng)
    chosen = replace(one, ridge=ridge)
    return replace(chosen, error=chosen.squared_error(wire, x) if one.imputes else error)
