"""The orthogonal matrix that is nearest to a matrix, approximately: the steps of Muon."""

from __future__ import annotations

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.775, 2.0315
"""Of the published polynomial: its slope at 0 is so steep that five steps are enough."""
STEPS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices with the same singular vectors and singular values near 1 (0.7 to 1.2).

    By five steps X ← P X with P = a I + b A + c A² and A = X Xᵀ, from X = M/‖M‖ (Newton and Schulz; the polynomial of
    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024).

    In exact arithmetic A ← P A P is the next A, so that the wide X need not be touched before the end: less than half
    of the operations for n = 512, m = 4608. A rounding error of A may be a direction that M does not have, and grows by
    a² ≈ 12 in each step: what is 1e-7 at first is then 0.02, and a bfloat16's 4e-3 would be without limit. So A is
    computed anew in each step where products are rounded to less than float32.

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
    if _is_exact(x):
        x = _product_of_polynomials(x @ x.mT) @ x
    else:
        for _ in range(STEPS):
            gram = x @ x.mT
            x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def _is_exact(x: Tensor) -> bool:
    """Return whether products of such matrices are surely rounded to float32 or better."""
    if x.dtype != torch.float32 or x.device.type != "cpu":
        return x.dtype == torch.float64
    if (settings := getattr(torch.backends.mkldnn, "matmul", None)) is None:  # of a torch before 2.9
        return torch.get_float32_matmul_precision() == "highest"
    return settings.fp32_precision in ("none", "ieee")  # some processors have bfloat16, if it is allowed


def _product_of_polynomials(gram: Tensor) -> Tensor:
    a, b, c = COEFFICIENTS
    product = None
    for step in range(STEPS):
        polynomial = b * gram + c * gram @ gram
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        if step < STEPS - 1:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    return product
