"""Whether a network that answers wires may compute in bf16."""

from __future__ import annotations

from torch import Tensor

from ..recipe import precision

LOST = 1e-3
"""Greatest part of an entry's variance that rounding may add; a mean of 14 to 28 standard deviations adds as much."""


def in_bf16(wire: Tensor) -> bool:
    """Return whether the hardware computes in bf16 and rounding such wires to it hides nothing.

    bf16 keeps eight bits of a number: of a wire with a large offset nothing but the offset would be left, and a defense
    could seem to protect by adding one.

    Args:
        wire: some wires (B, ...), as the network is given them.
    """
    if precision("auto", wire.device) != "bf16-mixed":
        return False
    spread, lost = wire.var(0, correction=0), (wire - wire.bfloat16().float()).square().mean(0)
    return bool((lost <= LOST * spread).all())
