"""The part of the attacker's own images on which an attack chooses: its epoch, a setting, a backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..data import Split
from ..errors import UserError
from ..runtime import Runtime
from ._backward import Mode
from .base import Attack, Observations, Victim

Search = Callable[[Tensor, Tensor, Mode], Tensor]
"""(wires (B, ...), a setting for each (B,), backward pass) -> images (B, 3, S, S) in [0, 1]."""

HELD_OUT = 0.1
"""Part of the attacker's images on which the epoch is chosen."""


class Pairs(Protocol):
    """Images with their wires: `Observations`, or anything else that a decoder may learn from."""

    def __len__(self) -> int: ...

    def wire(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """Return what the decoder is given, (B, C, H, W)."""
        ...

    def images(self, index: Tensor) -> Tensor:
        """Return what the decoder should answer, (B, C, H, W) in [0, 1]."""
        ...


Parts = tuple[Pairs, Pairs]
"""Held-out images, and those that are learned from."""


def hold_out_images(images: Split, rng: torch.Generator, name: str) -> tuple[Split, Split]:
    """Return a tenth of the attacker's images, on which the attack chooses, and the rest to learn from.

    Raises:
        UserError: fewer than three images.
    """
    order = torch.randperm(len(images), generator=rng, device=rng.device).to(images.images.device)
    held = max(1, round(HELD_OUT * len(images)))
    if len(images) - held < 2:
        raise UserError(f"{name}: the attacker has {len(images)} images; expected at least 3")
    return images.subset(order[:held]), images.subset(order[held:])


def hold_out(victim: Victim, images: Split, rng: torch.Generator, name: str) -> tuple[Observations, Observations]:
    """Return the parts of `hold_out_images` together with what the wire carries for them."""
    held_out, train = hold_out_images(images, rng, name)
    return victim.observe(held_out), victim.observe(train)


def fit_start(
    first: Attack | None, victim: Victim, images: Split, rng: torch.Generator, runtime: Runtime, part: float, name: str
) -> tuple[Split, Split]:
    """Fit the attack whose answer is a start; return a tenth of the images that its steps have not used, and the rest.

    An attack that holds out a tenth itself gets all images, and its tenth is returned: its training is then the same as
    without a refinement, and can be shared.

    Args:
        first: attack that is fitted; None: there is none.
        victim: view of the model.
        images: of the attacker.
        rng: generator of all that is drawn.
        runtime: of the attack whose start this is.
        part: share of the time for the fit.
        name: of the attack, for messages.

    Raises:
        UserError: fewer than three images.
    """
    if not first or not first.holds_out:
        held, own = hold_out_images(images, rng, name)
    else:
        same = torch.Generator(rng.device)
        same.set_state(rng.get_state())
        held, own = hold_out_images(images, same, name)
    if first:
        with runtime.share(part):
            first.fit(victim.of(first), images if first.holds_out else own, rng, runtime)
    return held, own


def choose(
    settings: Sequence[float], modes: Sequence[Mode], search: Search, truth: Tensor, wire: Tensor, runtime: Runtime
) -> tuple[float, Mode, float | None]:
    """Return the setting and the backward pass with the lowest error on held-out images, and that error.

    All settings are tried at once. Where there is only one choice nothing is tried, and the error is None.

    Args:
        settings: values of the setting.
        modes: backward passes that are possible.
        search: the attack's search.
        truth: held-out images (J, 3, S, S).
        wire: what the wire carries for them.
        runtime: each backward pass gets an equal share of its time.
    """
    best, chosen, through = math.inf, settings[0], modes[0]
    if len(settings) * len(modes) == 1:
        return chosen, through, None
    each = torch.tensor(settings, device=wire.device).repeat_interleave(len(truth))
    wires = wire.repeat(len(settings), *[1] * (wire.dim() - 1))
    for mode in runtime.each(modes):
        answers = search(wires, each, mode).view(len(settings), *truth.shape)
        errors = (answers - truth).square().mean((1, 2, 3, 4)).tolist()
        if min(errors) < best:
            best, chosen, through = min(errors), settings[errors.index(min(errors))], mode
    return chosen, through, best
