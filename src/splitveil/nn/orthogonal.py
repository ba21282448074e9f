"""The orthogonal matrix that is nearest to a matrix, approximately: the steps of Muon."""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.775, 2.0315
"""Of the published polynomial: its slope at 0 is so steep that five steps are enough."""
STEPS = 5
RIDGE = 1e-6
"""Added to the Gram matrix: five steps cannot tell it from 0."""


def orthogonal(matrices: Tensor, precision: torch.dtype | None = None) -> Tensor:
    """Return matrices with the same singular vectors and singular values near 1 (0.7 to 1.2).

    By five steps X ← (a + b A + c A²) X with A = X Xᵀ, from X = M/‖M‖ (Newton and Schulz; the polynomial of Jordan et
    al., "Muon: an optimizer for hidden layers in neural networks", 2024). All steps are made on the smaller Gram
    matrix, so that the matrix itself takes part in two products only.

    Args:
        matrices: (..., n, m).
        precision: of the last product; None: of the matrices.

    >>> found = orthogonal(torch.diag(torch.tensor([3.0, 1.0, 0.2])))
    >>> bool(((found.diagonal() > 0.6) & (found.diagonal() < 1.3)).all())
    True
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    if x.dtype != torch.float64:
        x = x.float()  # a Gram matrix in bf16 has negative eigenvalues, and every step multiplies them by 12
    x = x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    gram = x @ x.mT
    gram.diagonal(dim1=-2, dim2=-1).add_(RIDGE)
    product: Tensor | None = None
    for step in range(STEPS):
        factor = b * gram + c * gram @ gram
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if step < STEPS - 1:
            gram = factor @ gram @ factor
    precision = precision or x.dtype
    found = (product.to(precision) @ x.to(precision)).to(matrices.dtype)  # type: ignore[union-attr]
    return found.mT if tall else found
