"""The two halves of a model as they are deployed: what the device sends, what the cloud makes of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..defenses._correlated import acting, sends_fewer
from ..defenses.base import name_of
from ..defenses.codec import Codec, sent_by
from ..model import SplitModel
from .draws import Draw, Replay, trace


class Sender(nn.Module):
    """The device's half: images to the numbers that are sent, without the tail's weights.

    These are the wire itself or, where the last defense sends fewer numbers from which the cloud makes the wire
    (`waterfill`), those numbers.

    Args:
        model: with its defense, in evaluation mode.
    """

    def __init__(self, model: SplitModel):
        super().__init__()
        self.network = copy.copy(model)
        self.network._modules = {**model._modules, "tail": nn.Identity(), "defense": None}
        self.parts = nn.ModuleList(noisy_parts(model))
        self.eval()

    def forward(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Return what is sent for pixels (B, C, H, W) in [0, 1]."""
        return sent_by(list(self.parts), self.network.features(x), rng)

    def draws(self, x: Tensor) -> list[Draw]:
        """Return every draw of the encoder and the defenses, see `draws.trace`.

        Args:
            x: at least three different images, pixels (B, C, H, W) in [0, 1].
        """
        with torch.no_grad():
            z = self.network.features(x)
        found: list[Draw] = []
        for part in self.parts:  # one by one, so that the message names the one that cannot be deployed
            found += trace(part.on_wire, z, name_of(type(part)))  # type: ignore[arg-type]
            with torch.no_grad():
                z = part.on_wire(z, torch.Generator().manual_seed(0))  # type: ignore[operator]
        return trace(self, x, "the encoder with its defenses")


class Receiver(nn.Module):
    """The cloud's half: the numbers that are sent to logits.

    Args:
        model: with its defense, in evaluation mode.
    """

    def __init__(self, model: SplitModel):
        super().__init__()
        parts = noisy_parts(model)
        self.last = parts[-1] if parts and sends_fewer(parts[-1]) else None
        self.tail, self.feature = model.tail, tuple(model.wire_shape)
        self.eval()

    def forward(self, sent: Tensor) -> Tensor:
        """Return logits (B, classes) of what was sent, (B, ...)."""
        return self.tail(sent if self.last is None else self.last.shown(sent, self.feature))  # type: ignore[operator]


class Replayed(nn.Module):
    """A half whose draws are handed in.

    Args:
        send: images and a generator -> what is sent.
        draws: of ``send``.
    """

    def __init__(self, send: Any, draws: Sequence[Draw]):
        super().__init__()
        self.send, self.drawn = send, tuple(draws)
        self.eval()

    def forward(self, x: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """Return what is sent for pixels (B, C, H, W) in [0, 1] and the numbers of each draw."""
        with Replay(self.drawn, numbers):
            return self.send(x, torch.Generator())


def noisy_parts(model: SplitModel) -> list[Any]:
    """Return the defenses that change the wire, in their order on it, without the codec.

    Args:
        model: with its defense.
    """
    return [part for part in acting(model.defense) if not isinstance(part, Codec)]
