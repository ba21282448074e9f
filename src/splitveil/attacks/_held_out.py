"""The part of the attacker's own images on which an attack chooses: its epoch, a setting, a backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..data import Split
from ..errors import UserError
from ..runtime import Work
from ._white_box import Mode
from .base import Attack, Observations, Victim

Search = Callable[[Tensor, Tensor, Mode], Tensor]
"""(wires (B, ...), a setting for each (B,), backward pass) -> images (B, 3, S, S) in [0, 1]."""

HELD_OUT = 0.1
"""Part of the attacker's images that chooses the epoch."""


class Pairs(Protocol):
    """Images and what is known of them: `Observations`, or anything else that a decoder may learn from."""

    def __len__(self) -> int: ...

    def wire(self, index: Tensor, rng: torch.Generator) -> Tensor:
        """What the decoder is given, (B, C, H, W)."""
        ...

    def images(self, index: Tensor) -> Tensor:
        """What it should answer, (B, 3, S, S) in [0, 1]."""
        ...


def hold_out_images(images: Split, rng: torch.Generator, name: str) -> tuple[Split, Split]:
    """The attacker's images as a tenth that judges and the rest to learn from.

    Raises:
        UserError: fewer than three images.
    """
    order = torch.randperm(len(images), generator=rng, device=rng.device).to(images.images.device)
    held = max(1, round(HELD_OUT * len(images)))
    if len(images) - held < 2:
        raise UserError(f"{name}: the attacker has {len(images)} images; expected at least 3")
    return images.subset(order[:held]), images.subset(order[held:])


def hold_out(victim: Victim, images: Split, rng: torch.Generator, name: str) -> tuple[Observations, Observations]:
    """The same, as what the wire carries for them."""
    judge, train = hold_out_images(images, rng, name)
    return victim.observe(judge), victim.observe(train)


def fit_start(
    first: Attack | None, victim: Victim, images: Split, rng: torch.Generator, work: Work, part: float, name: str
) -> tuple[Split, Split]:
    """Fit the attack whose answer is a start; a tenth of the images that its steps have not used, and the rest.

    An attack that keeps a tenth of its own has all images, and that tenth is the one: its training is then the one that
    it has alone, and can be shared with it.

    Args:
        part: of the time, for the fit.

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
        with work.share(part):
            first.fit(victim.of(first), images if first.holds_out else own, rng, work)
    return held, own


def choose(
    settings: Sequence[float], modes: Sequence[Mode], search: Search, truth: Tensor, wire: Tensor, work: Work
) -> tuple[float, Mode, float | None]:
    """The setting and the backward pass with the lowest error on held-out images, and that error.

    All settings are tried at once. Where there is nothing to choose nothing is tried, and the error is None.

    Args:
        truth, wire: the held-out images (J, 3, S, S) and what the wire carries for them.
    """
    best, chosen, through = math.inf, settings[0], modes[0]
    if len(settings) * len(modes) == 1:
        return chosen, through, None
    each = torch.tensor(settings, device=wire.device).repeat_interleave(len(truth))
    wires = wire.repeat(len(settings), *[1] * (wire.dim() - 1))
    for mode in work.each(modes):
        answers = search(wires, each, mode).view(len(settings), *truth.shape)
        errors = (answers - truth).square().mean((1, 2, 3, 4)).tolist()
        if min(errors) < best:
            best, chosen, through = min(errors), settings[errors.index(min(errors))], mode
    return chosen, through, best
