"""Additive Laplace noise on the wire."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ranges import Weight
from ..registry import plugin
from ._law import Law
from .base import Defense


@plugin("laplace")
class Laplace(Defense):
    """Laplace noise of scale b on every dimension of the wire.

    z_wire = z + η, η with density exp(−|η|/b)/(2b), variance 2b² (Dwork et al. 2006), drawn anew for every
    query. `local_dp` chooses b from an ε; here b is given and nothing is promised.

    ``noise_variance`` is 0: CEM's bound is that of *Gaussian* noise, and ½ log(1 + v/2b²) is none for Laplace
    noise of the same variance, which hides less. Add ``gaussian`` to use CEM.

    Args:
        scale: b ≥ 0, in units of the feature.

    >>> Laplace(0.1).on_wire(torch.zeros(2, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """

    repeatable = True

    def __init__(self, scale: Weight = 0.02):
        super().__init__()
        self.scale = float(scale)

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return z if self.scale == 0 else z.float() + self.scale * laplace_noise(z, rng)

    def law(self, wire: Tensor, before: Law) -> Law:
        return before.with_noise(2 * self.scale**2, "laplace") if self.scale else before


def laplace_noise(like: Tensor, rng: torch.Generator) -> Tensor:
    """Return float32 Laplace noise of scale 1 in the shape of ``like``: the difference of two exponential variables.

    Args:
        like: tensor whose shape and device the noise has.
        rng: generator of the noise.
    """
    empty = torch.empty(2, *like.shape, dtype=torch.float32, device=like.device)
    first, second = empty.exponential_(generator=rng)
    return first - second
