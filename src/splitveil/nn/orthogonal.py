"""The orthogonal matrix that is nearest to a matrix, approximately: the steps of Muon."""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.775, 2.0315
"""Of the published polynomial: its slope at 0 is so steep that five steps are enough."""
STEPS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices with the same singular vectors and singular values near 1 (0.7 to 1.2).

    By five steps X ← a X + (b A + c A²) X with A = X Xᵀ, from X = M/‖M‖ (Newton and Schulz; the polynomial of Jordan et
    al., "Muon: an optimizer for hidden layers in neural networks", 2024). A is computed anew in each step, since
    powers of a rounded A grow without limit where M has few directions.

    Args:
        matrices: (..., n, m) of any dtype, in which it is computed; bfloat16 is exact enough.

    >>> found = orthogonal(torch.diag(torch.tensor([3.0, 1.0, 0.2])))
    >>> bool(((found.diagonal() > 0.6) & (found.diagonal() < 1.3)).all())
    True
    """
    a, b, c = COEFFICIENTS
    x = matrices / (torch.linalg.vector_norm(matrices, dim=(-2, -1), keepdim=True) + 1e-7)
    if tall := x.shape[-2] > x.shape[-1]:  # the smaller product
        x = x.mT
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x
