"""The codec of a deployed wire as a stage of the model, so that attacks see what is really sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..registry import plugin
from ._codec import BITS, Coder, Floats, Grid, Name, across, on_grid
from ._correlated import Correlated, acting, sends_fewer
from ._law import Law
from .base import NEVER, Defense


@plugin("codec")
class Codec(Defense, helpers=("coder", "coded", "rounding", "set_grid")):
    """Send each number as a few bits: the nearest value of a grid of its channel, fixed beforehand.

    `splitveil attack RUN --codec NAME` puts it behind the other defenses of a trained run; a training never finds its
    grid. It comes after the noise and never depends on the image, so it adds nothing to what the wire tells. Gradients
    pass it as if it were not there: rounding to a fine grid is a small noise to whoever searches by gradients. Behind
    `waterfill` it codes the numbers that are sent, not the estimate that the cloud makes of them.

    Args:
        name: uint8, uint4, uint2, float16 or float32.

    >>> from splitveil.defenses._codec_choice import fit
    >>> codec = Codec("uint2")
    >>> codec.set_grid(fit(torch.linspace(0, 3, 1001)[:, None], 2))
    >>> codec.on_wire(torch.tensor([[0.4], [1.6], [9.0]]), torch.Generator()).round(decimals=2).flatten()
    tensor([0., 2., 3.])
    """

    acts_after = NEVER
    put_on_by = "`splitveil attack RUN --codec NAME` or splitveil.with_codec(model, ...)"
    late_buffers = ("low", "step")
    low: Tensor | None
    """Smallest value of each channel, (C,)."""
    step: Tensor | None
    """Distance of neighboring values of each channel, (C,)."""

    def __init__(self, name: Name = "uint8"):
        super().__init__()
        self.name = name
        self.register_buffer("low", None)
        self.register_buffer("step", None)
        self._behind: tuple[Correlated, ...] = ()

    @property
    def ready(self) -> bool:
        """Return whether it has what its codec needs."""
        return self.name not in BITS or self.low is not None

    def install(self, model: object) -> None:
        """Find out whether numbers are sent of which the cloud makes the wire."""
        stack = getattr(model, "defense", None)
        parts = acting(stack)
        before = parts[: parts.index(self)] if self in parts else []
        if before and isinstance(before[-1], Correlated):
            self._behind, before[-1].codec = (before[-1],), (self,)

    def set_grid(self, grid: Coder) -> None:
        """Take the grid that `fit` has found.

        Args:
            grid: of the codec's number of bits; of float16 and float32 there is none.
        """
        if isinstance(grid, Grid):
            self.low, self.step = grid.low.flatten(), grid.step.flatten()

    def coder(self, shape: tuple[int, ...]) -> Coder:
        """Return the codec for what is sent for one image.

        Args:
            shape: of what is sent, without the batch.
        """
        if self.name not in BITS:
            return Floats(shape, self.name)
        assert self.low is not None
        assert self.step is not None
        return Grid(shape, BITS[self.name], self.low, self.step).to(self.low.device)

    def coded(self, sent: Tensor) -> Tensor:
        """Return what the cloud reads, (B, ...), of what is sent; the gradient is that of the identity."""
        if not self.ready:
            return sent
        if self.low is not None and self.step is not None:
            read = on_grid(sent.detach(), BITS[self.name], self.low, self.step)
        else:
            coder = self.coder(tuple(sent.shape[1:]))
            read = coder.decode(coder.encode(sent.detach()))
        return sent + (read - sent).detach() if sent.requires_grad else read

    def rounding(self) -> Tensor:
        """Return the variance of the rounding to each channel's grid, step²/12, (C,); 0 where there is no grid."""
        return torch.zeros(1) if self.step is None else self.step.square() / 12

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return z if self.of_numbers else self.coded(z)

    def law(self, wire: Tensor, before: Law) -> Law:
        if self.of_numbers or not self.ready or self.name == "float32":
            return before
        if self.step is None:  # what float16 rounds is little, but what was hidden no longer equals an offset
            return before if before.kept is None else before.rounded(self.rounding(), before.visible)
        places, visible = across(tuple(wire.shape[1:])), None
        variance = self.rounding().view(places)
        if before.visible is not None:
            zero = self.coded(torch.zeros_like(wire[:1]))  # what a hidden entry became: the nearest value of the grid
            visible = (wire - zero).abs() > self.step.view(places) / 2
        elif before.reduced is not None and 10 * float(variance.max()) <= before.unit:
            return before  # of `pca`: in its directions, the rounding adds at most 5 % to the noise's told deviation
        return before.rounded(variance, visible)

    def gaussian_law(self, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor] | None:
        return mean, variance  # before the codec: bounds say so

    def numbers_sent(self, wire: tuple[int, ...]) -> int:
        return self._behind[0].numbers_sent(wire) if self.of_numbers else super().numbers_sent(wire)

    def bytes_sent(self, wire: tuple[int, ...]) -> int:
        shape = (self.numbers_sent(wire),) if self.of_numbers else wire
        return self.coder(shape).bits // 8 if self.ready else super().bytes_sent(wire)

    @property
    def of_numbers(self) -> bool:
        """Return whether it codes numbers from which the cloud makes the wire, and not the wire itself."""
        return bool(self._behind) and self._behind[0].ready


def codec_of(defense: object) -> Codec | None:
    """Return the codec through which the wire of a defense, or of a stack of them, is sent; None: there is none."""
    return next((part for part in acting(defense) if isinstance(part, Codec) and part.ready), None)


def sent_by(parts: Sequence[Any], z: Tensor, rng: torch.Generator) -> Tensor:
    """Return what is sent for features, before any codec: the wire, or the numbers from which the cloud makes it.

    Args:
        parts: of `acting`.
        z: features (B, ...).
        rng: generator of all that is drawn.
    """
    noisy = [part for part in parts if not isinstance(part, Codec)]
    for part in noisy:
        z = part.sent(z, rng) if part is noisy[-1] and sends_fewer(part) else part.on_wire(z, rng)
    return z
