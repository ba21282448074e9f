"""3×3 convolutions of maps of one or two pixels a side, as one product of matrices.

On a 2×2 map more than half of what an ordinary kernel multiplies is padding: 20 of the 36 places of the filter, and on
one pixel 8 of 9. What is left is a full matrix between the pixels of both maps, whose blocks are taps of the filter:

    y[p] = Σ_q W[1 + q - p] x[q]        p, q: pixels (row, column) of the output and of the input
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

LARGEST = 2  # pixels a side: on three, the matrix has as many places as the filter covers
MIN_BATCH = 32  # below, writing the matrix costs more than it saves; a single pixel needs one tap alone


class _Product(torch.autograd.Function):
    """The convolution, (B, H, W, O), computed in ``dtype``. Second derivatives take PyTorch's own formulas."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        pixels, matrix = _flat(x, dtype), _matrix(weight, x.shape[2], x.shape[3], dtype)
        ctx.save_for_backward(x, weight, matrix)
        ctx.kinds = x.dtype, None if bias is None else bias.dtype
        y = (pixels @ matrix.mT).reshape(len(x), *x.shape[2:], len(weight))
        return y if bias is None else y + bias.to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight, matrix), needs, (kind, bias_kind) = ctx.saved_tensors, ctx.needs_input_grad, ctx.kinds
        dy = grads[0].movedim(-1, -3)
        # create_graph: every step must itself be differentiable; and several gradients at once must be allowed.
        several = torch._C._functorch.is_legacy_batchedtensor(dy)  # pyright: ignore[reportAttributeAccessIssue]
        if several or torch.is_grad_enabled():
            given, ones = (x.to(dy.dtype), weight.to(dy.dtype)), [1, 1]
            found = torch.ops.aten.convolution_backward(
                dy, *given, [len(weight)], ones, ones, ones, False, [0, 0], 1, list(needs[:3])
            )
            kinds = kind, weight.dtype, bias_kind
            return *(None if g is None else g.to(k) for g, k in zip(found, kinds, strict=True)), None
        signal, (height, width) = _flat(dy, dy.dtype), x.shape[2:]
        dx = dw = db = None
        if needs[0]:
            dx = (signal @ matrix).to(kind).reshape(len(x), height, width, -1).permute(0, 3, 1, 2)
        if needs[1]:
            dw = torch.zeros_like(weight)
            taps = dw.permute(0, 2, 3, 1)
            blocks = (signal.mT @ _flat(x, dy.dtype)).reshape(height, width, len(weight), height, width, -1)
            for row in range(height):
                for column in range(width):
                    taps[:, 1 - row : 1 - row + height, 1 - column : 1 - column + width] += blocks[row, column]
        if needs[2]:
            db = signal.to(bias_kind).reshape(-1, len(weight)).sum(0)
        return dx, dw, db, None


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return `F.conv2d(x, weight, bias, padding=1)` of a map that `pays`, differentiable any number of times.

    Args:
        x: (B, C, H, W), best channels-last, H and W at most 2.
        weight: (O, C, 3, 3).
        bias: (O).
        dtype: in which it is computed; None: that of ``x``.

    Returns:
        (B, O, H, W), channels-last, of ``dtype``.

    >>> conv3x3(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 3, 3)).flatten()
    tensor([4., 4., 4., 4.])
    """
    return cast(Tensor, _Product.apply(x, weight, bias, dtype or x.dtype)).permute(0, 3, 1, 2)


def pays(shape: torch.Size) -> bool:
    """Return whether the product is at least about as fast for maps of this shape; it gains most with many channels.

    Args:
        shape: (B, C, H, W) of the maps.

    >>> pays(torch.Size([128, 512, 2, 2])), pays(torch.Size([128, 512, 4, 4]))
    (True, False)
    """
    count, _, height, width = shape
    if not count or not 1 <= min(height, width) <= max(height, width) <= LARGEST:
        return False
    return count >= MIN_BATCH or height * width == 1


def _flat(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Return maps (B, C, H, W) as rows (B, H W C)."""
    return x.permute(0, 2, 3, 1).to(dtype).reshape(len(x), -1)


def _matrix(weight: Tensor, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """Return the matrix (H W O, H W C) of a filter (O, C, 3, 3)."""
    taps = weight.permute(0, 2, 3, 1).to(dtype)
    rows, columns = range(1, 1 - height, -1), range(1, 1 - width, -1)
    return torch.cat([taps[:, r : r + height, c : c + width].reshape(len(weight), -1) for r in rows for c in columns])
