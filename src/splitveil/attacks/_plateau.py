"""A training without a fixed length: it ends when the error on held-out images no longer falls."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..runtime import OptimizationLoop, Runtime, State, copy_weights

CHECKS = 4
"""How often the held-out error is read within the patience."""
LEAST_FALL = 1e-3
"""Relative fall of the error that counts as falling."""
CUT = 0.3
"""Factor on the rate where the error has stopped falling."""
LEAST_GAIN = 3e-3
"""Relative fall of the error after a cut that makes another cut worth trying."""
FLOOR = 1e-5
"""The rate at the end of the steps that may be taken, if the training gets there."""


@dataclass(frozen=True)
class Plateau:
    """A training whose rate is cut where the held-out error has stalled; it then goes on from the best weights.

    The error has stalled where ``patience`` steps have not brought it down by `LEAST_FALL`. A cut that has not brought
    it down by `LEAST_GAIN` when it stalls again was the last one. The rate never lies above a cosine over the steps
    that may be taken, so that a training that is not done by then ends as one of that fixed length.

    Args:
        steps: most steps.
        patience: steps without a fall of the error, see above.
        lr: first rate.

    >>> Plateau(6000, 400, 1e-3).every
    100
    """

    steps: int
    patience: int
    lr: float

    @property
    def every(self) -> int:
        """Return the steps between two readings of the error."""
        return max(1, min(self.patience // CHECKS, self.steps))

    def loop(self, runtime: Runtime, name: str, state: State, rng: torch.Generator) -> OptimizationLoop:
        """Return the loop of the training, each round of which ends with a reading (see `read`).

        What the loop must remember is added to ``state``.
        """
        state |= {"best": math.inf, "weights": {}, "curve": []}
        state |= {"rate": self.lr, "lowest": math.inf, "fell": 0, "before": math.inf}
        return runtime.loop(name, self.steps // self.every, state, rng, per_round=self.every)

    def batches(self, loop: OptimizationLoop, count: int, size: int) -> Iterator[Tensor]:
        """Yield the indices of the batches of a round; set the rate of each in the optimizer of the loop's state.

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

    def read(self, loop: OptimizationLoop, net: torch.nn.Module, error: float) -> None:
        """Record the held-out error, keep the best weights, and cut the rate or end the loop."""
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
