"""A training without a fixed length: it ends when the error on held-out images no longer falls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime import Loop, State, Work, copy_weights

CHECKS = 4
"""How often the held-out error is read within the patience."""
LEAST_FALL = 1e-3
"""Part by which the error must fall to count as falling."""
CUT = 0.3
"""Factor on the rate where the error has stopped falling."""
LEAST_GAIN = 3e-3
"""Part by which the error must fall after a cut for another cut to be tried."""
FLOOR = 1e-5
"""The rate at the end of the steps that may be taken, if the training gets there."""


@dataclass(frozen=True)
class Plateau:
    """How such a training goes: the rate is cut where the error has stalled, from the best weights on.

    The error has stalled where ``patience`` steps have not brought it down by `LEAST_FALL`. A cut that has not brought
    it down by `LEAST_GAIN` when it stalls again was the last one. The rate never lies above a cosine over the steps
    that may be taken, so that a training that is not done by then ends as one of that fixed length.

    Args:
        steps: at most. patience: steps, see above. lr: first rate.

    >>> Plateau(6000, 400, 1e-3).every
    100
    """

    steps: int
    patience: int
    lr: float

    @property
    def every(self) -> int:
        """Steps between two readings of the error."""
        return max(1, min(self.patience // CHECKS, self.steps))

    def loop(self, work: Work, name: str, state: State, rng: torch.Generator) -> Loop:
        """The loop of the training; a round ends with a reading, see `read`. What it must remember joins ``state``."""
        state |= {"best": math.inf, "weights": {}, "curve": []}
        state |= {"rate": self.lr, "lowest": math.inf, "fell": 0, "before": math.inf}
        return work.loop(name, self.steps // self.every, state, rng, per_round=self.every)

    def batches(self, loop: Loop, count: int, size: int) -> Iterator[Tensor]:
        """Indices of the batches of a round; the optimizer in the loop's state gets the rate of each.

        All images are drawn before one is drawn again.
        """
        size = min(size, count)
        orders = math.ceil(self.every * size / count)
        order = torch.rand(orders, count, generator=loop.rng, device=loop.rng.device).argsort(1).flatten()
        for index in loop.steps(order[: self.every * size].split(size)):
            loop.anneal(loop.state["optimizer"], self.lr, min(FLOOR, self.lr))
            for group in loop.state["optimizer"].param_groups:
                group["lr"] = min(group["lr"], loop.state["rate"])
            yield index

    def read(self, loop: Loop, net: torch.nn.Module, error: float) -> None:
        """Take note of the held-out error, keep the best weights, cut the rate or end the loop."""
        state = loop.state
        state["curve"].append(error)
        loop.error = error
        if error < state["best"]:
            state |= {"best": error, "weights": copy_weights(net)}
        if error < (1 - LEAST_FALL) * state["lowest"]:
            state |= {"lowest": error, "fell": loop.done}
        if loop.done - state["fell"] < self.patience:
            return
        if not state["best"] < (1 - LEAST_GAIN) * state["before"]:
            loop.finish()
            return
        now = max(group["lr"] for group in state["optimizer"].param_groups)
        state |= {"rate": CUT * now, "fell": loop.done, "before": state["best"]}
        net.load_state_dict(state["weights"])
