"""A network that is trained by Muon and Adam, and the mean of its last weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..runtime import OptimizationLoop, State
from ._correction import Correction
from ._muon import Muon

ADAM = 0.1
"""Rate of Adam, for all that Muon is not for, in units of Muon's."""
WARM = 0.06
"""Part of the training, by steps or by time, in which the rates rise; they fall in a straight line to 0."""
WINDOW = 0.1
"""Part of the steps so far whose weights the mean is about, each with a weight that fades with its age."""


class Averaged:
    """A network in training, and the running mean of its weights.

    Args:
        network: is trained in place; its inner weights by Muon, all others by Adam.
        lr: highest rate of Muon.
        dtype: of Muon's arithmetic.

    Attributes:
        mean: a copy of the network that has the mean weights.
    """

    def __init__(self, network: Correction, lr: float, dtype: torch.dtype):
        self.network, self.mean, self._lr = network, copy.deepcopy(network), lr
        inner = network.inner()
        others = [weight for weight in network.parameters() if all(weight is not one for one in inner)]
        self._muon, self._adam = Muon(inner, lr, dtype), torch.optim.Adam(others, ADAM * lr)

    def state(self) -> State:
        """Return what a loop must keep of the training."""
        return {"network": self.network, "mean": self.mean, "muon": self._muon, "adam": self._adam}

    def step(self, loss: Tensor, loop: OptimizationLoop) -> None:
        """Take one step of a loop down the gradient, and take the weights into the mean.

        Args:
            loss: of this step.
            loop: says how far the training is.
        """
        # A limit of time ends the training long before the planned steps, and the rates must rise within it.
        rise = max((loop.done + 1) / (WARM * loop.planned), loop.fraction / WARM)
        part = min(1.0, rise) * (1 - loop.fraction)
        self._muon.param_groups[0]["lr"], self._adam.param_groups[0]["lr"] = part * self._lr, part * ADAM * self._lr
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        self._muon.step()
        self._adam.step()
        with torch.no_grad():
            for mean, weight in zip(self.mean.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 1 / (1 + WINDOW * loop.done))
