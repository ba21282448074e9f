"""Passes over the attacker's own images before it learns, each a loop that its budget may end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..runtime import Budget, Runtime, State
from .base import BATCH


def gathered(
    runtime: Runtime, name: str, count: int, look: Callable[[Tensor], tuple[Tensor, ...]], rng: torch.Generator
) -> tuple[Tensor, ...]:
    """Return rows of images that were looked at, (N,), and what ``look`` tells of them: all, unless the budget ends it.

    Args:
        runtime: of the attack.
        name: of the pass.
        count: number of images.
        look: takes rows (B,).
        rng: generator that ``look`` draws from.

    >>> gathered(Runtime(), "squares", 3, lambda rows: (rows**2,), torch.Generator())
    (tensor([0, 1, 2]), tensor([0, 1, 4]))
    """
    rows = torch.arange(count, device=rng.device)
    if runtime.budget != Budget():  # images may be sorted by class, and a part of them must have all classes
        rows = rows[torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(rows.device)]
    parts, state = rows.split(BATCH), State(found=[])
    for i in runtime.loop(name, len(parts), state, rng):
        state["found"].append((parts[i], *look(parts[i])))
    found = tuple(torch.cat(each) for each in zip(*state["found"], strict=True))
    state.clear()  # the runtime keeps its loops
    return found


def least(
    runtime: Runtime, name: str, settings: Sequence[float], error: Callable[[float], float], rng: torch.Generator
) -> tuple[float, float]:
    """Return the setting with the least error, and that error: of all, unless the budget ends the search.

    Args:
        runtime: of the attack.
        name: of the search.
        settings: values in the order in which they are tried.
        error: of a setting.
        rng: generator that ``error`` draws from.

    >>> least(Runtime(), "roots", (3.0, 1.0, 2.0), lambda x: abs(x**2 - 4), torch.Generator())
    (2.0, 0.0)
    """
    state = State(errors=[])
    loop = runtime.loop(name, len(settings), state, rng)
    for i in loop:
        state["errors"].append(error(settings[i]))
        loop.error = min(state["errors"])
    lowest = min(state["errors"])
    return settings[state["errors"].index(lowest)], lowest
