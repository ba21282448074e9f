"""Random erasure of feature entries on the wire."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ..registry import plugin
from ._law import Law
from .base import Defense


@plugin("dropout")
class Dropout(Defense):
    """Dropout on the wire: each entry is erased with the given probability, in training and in service alike.

    z_wire = z ∘ m / (1 − p), m ~ Bernoulli(1 − p) per entry and query, so that E[z_wire] = z. As used against
    inversion by He et al., "Attacking and protecting data privacy in edge-cloud collaborative inference",
    IEEE IoT Journal 2020. Queries that are repeated draw new masks: an observer of many of the same image
    averages them away.

    ``rescale=false`` leaves out the factor, as the published code does: E[z_wire] = (1 − p) z, and a network that was
    trained so must be served so.

    The signal is amplified by 1/(1 − p) where it is kept and rescaled. CEM's leakage is computed from the clean z: it
    remains a bound where the noise comes *before* the dropout, not after it.

    Args:
        ratio: p, the part that is erased, in [0, 1).
        rescale: divide what is kept by 1 − p.

    >>> wire = Dropout(0.5).on_wire(torch.ones(1, 1000), torch.Generator().manual_seed(0))
    >>> sorted(set(wire.flatten().tolist()))
    [0.0, 2.0]
    >>> wire = Dropout(0.5, rescale=False).on_wire(torch.ones(1, 1000), torch.Generator().manual_seed(0))
    >>> sorted(set(wire.flatten().tolist()))
    [0.0, 1.0]
    """

    def __init__(self, ratio: Annotated[float, Field(ge=0, lt=1)] = 0.2, rescale: bool = True):
        super().__init__()
        self.ratio, self.rescale = float(ratio), rescale

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        if self.ratio == 0:
            return z
        kept = torch.rand(z.shape, generator=rng, device=z.device) >= self.ratio
        return z.float() * kept / (1 - self.ratio if self.rescale else 1)

    def law(self, wire: Tensor, before: Law) -> Law:
        return before.hiding(wire != 0, 1 / (1 - self.ratio) if self.rescale else 1.0) if self.ratio else before
