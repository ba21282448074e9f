"""The two ways in which a decoder is trained: so many epochs, or until the held-out error no longer falls."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from ..runtime import Runtime, State, copy_weights
from ._held_out import Pairs
from ._plateau import Plateau

if TYPE_CHECKING:
    from .decoder import DecoderAttack


def by_epochs(
    attack: DecoderAttack, state: State, held_out: Pairs, train: Pairs, rng: torch.Generator, runtime: Runtime
) -> None:
    """Train by the published recipe: the rate falls along a cosine, the held-out error is read after each epoch.

    Leaves ``best``, ``weights`` and ``curve`` in ``state``, which has the decoder and its optimizer.
    """
    state |= {"best": math.inf, "weights": {}, "curve": []}
    per_round = math.ceil(len(train) / attack.batch_size)
    loop = runtime.loop("decoder", attack.epochs, state, rng, per_round=per_round)
    for _ in loop:
        loop.anneal(state["optimizer"], attack.lr, min(1e-5, attack.lr))
        attack.decoder.train()
        order = torch.randperm(len(train), generator=rng, device=rng.device)
        for index in loop.steps(order.split(attack.batch_size)):
            if len(index) > 1:
                attack.step(train, index, state, rng)
        loop.error = attack.error(held_out, torch.Generator(rng.device).manual_seed(0))
        state["curve"].append(loop.error)
        if loop.error < state["best"]:
            state |= {"best": loop.error, "weights": copy_weights(attack.decoder)}


def by_steps(
    attack: DecoderAttack, state: State, held_out: Pairs, train: Pairs, rng: torch.Generator, runtime: Runtime
) -> None:
    """Train until the held-out error no longer falls (see `Plateau`); leave the same in ``state``."""
    assert attack.steps
    plateau = Plateau(attack.steps, attack.patience, attack.lr)
    loop = plateau.loop(runtime, "decoder", state, rng)
    for _ in loop:
        attack.decoder.train()
        for index in plateau.batches(loop, len(train), attack.batch_size):
            attack.step(train, index, state, rng)
        plateau.read(loop, attack.decoder, attack.error(held_out, torch.Generator(rng.device).manual_seed(0)))
