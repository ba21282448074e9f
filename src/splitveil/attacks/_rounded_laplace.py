"""The likelihood of Laplace noise, with a round peak."""

from __future__ import annotations

from torch import Tensor

ROUND = 0.1
"""Width of the rounded peak, in units of the noise's scale."""


def rounded_laplace(error: Tensor, variance: Tensor, scale: float, spread: Tensor | float = 0.0) -> Tensor:
    """Return 2 v/b (√(e² + r²) − r): |e| · 2 v/b with a round peak, which near 0 has a gradient.

    Args:
        error: e, the last axis as ``variance``.
        variance: v of all noise on each entry.
        scale: b of its Laplace part; the rest of the variance rounds the peak too.
        spread: variance of the mean that is compared with.

    >>> import torch
    >>> rounded_laplace(torch.tensor([0.0, 100.0]), torch.tensor(2.0), 1.0).round()
    tensor([  0., 400.])
    """
    rounded = (variance - 2 * scale**2).clamp(min=0) + (ROUND * scale) ** 2 + spread
    return 2 * variance / scale * ((error.square() + rounded).sqrt() - rounded.sqrt())
