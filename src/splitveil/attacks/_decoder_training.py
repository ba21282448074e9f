"""The two ways in which a decoder is trained: so many epochs, or until the held-out error no longer falls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..runtime import State, Work, copy_weights
from ._held_out import Pairs
from ._plateau import Plateau

if TYPE_CHECKING:
    from .decoder import DecoderAttack


def by_epochs(
    attack: DecoderAttack, state: State, judge: Pairs, train: Pairs, rng: torch.Generator, work: Work
) -> None:
    """The published recipe: the rate along a cosine, the error read after each epoch.

    Leaves ``best``, ``weights`` and ``curve`` in ``state``, which has the decoder and its optimizer.
    """
    state |= {"best": math.inf, "weights": {}, "curve": []}
    per_round = math.ceil(len(train) / attack.batch_size)
    loop = work.loop("decoder", attack.epochs, state, rng, per_round=per_round)
    for _ in loop:
        loop.anneal(state["optimizer"], attack.lr, min(1e-5, attack.lr))
        attack.decoder.train()
        order = torch.randperm(len(train), generator=rng, device=rng.device)
        for index in loop.steps(order.split(attack.batch_size)):
            if len(index) > 1:
                attack.step(train, index, state["optimizer"], rng)
        loop.error = attack.error(judge, torch.Generator(rng.device).manual_seed(0))
        state["curve"].append(loop.error)
        if loop.error < state["best"]:
            state |= {"best": loop.error, "weights": copy_weights(attack.decoder)}


def by_steps(attack: DecoderAttack, state: State, judge: Pairs, train: Pairs, rng: torch.Generator, work: Work) -> None:
    """Until the error no longer falls, see `Plateau`; leaves the same."""
    assert attack.steps
    plateau = Plateau(attack.steps, attack.patience, attack.lr)
    loop = plateau.loop(work, "decoder", state, rng)
    for _ in loop:
        attack.decoder.train()
        for index in plateau.batches(loop, len(train), attack.batch_size):
            attack.step(train, index, state["optimizer"], rng)
        plateau.read(loop, attack.decoder, attack.error(judge, torch.Generator(rng.device).manual_seed(0)))
