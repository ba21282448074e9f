"""Victims whose wire an attack is to invert: digits through one small convolution."""

from __future__ import annotations

import torch
from torch import nn

from splitveil.attacks.base import Victim
from splitveil.data import Access
from splitveil.defenses.base import Defense
from splitveil.model import SplitModel


class Rounded(Defense):
    """A wire without a gradient."""

    def on_wire(self, z, rng):
        return (z * 20).round() / 20


def victim(defense: Defense) -> Victim:
    """Return a victim whose convolution keeps a sixth of the numbers of an image."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Victim(SplitModel(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), defense=defense), frozenset(Access))
