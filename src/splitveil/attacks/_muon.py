"""Muon: momentum whose steps are made orthogonal, for the matrices and convolutions of a network."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..nn.orthogonal import orthogonal

MOMENTUM = 0.95


class Muon(torch.optim.Optimizer):
    """Stochastic gradient descent with Nesterov's momentum, of whose steps all singular values are about 1.

    m ← μ m + g and W ← W − lr √max(1, rows/columns) O(g + μ m), where O is `orthogonal` and a convolution counts as a
    matrix with a row for each output channel (Jordan et al. 2024, Muon: an optimizer for hidden layers in neural
    networks). For the layers within a network; biases and the last layer are for Adam.

    Args:
        weights: of two dimensions or more.
        lr: rate, the largest singular value of a step.
        dtype: of the arithmetic of `orthogonal`, for which bfloat16 is exact enough.

    >>> weight = nn.Parameter(torch.zeros(2, 2))
    >>> weight.grad = torch.tensor([[100.0, 0.0], [0.0, 1.0]])
    >>> Muon([weight], 0.1).step()
    >>> [round(float(value), 1) for value in weight.detach().diagonal()]  # alike, whatever the gradients
    [-0.1, -0.1]
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float, dtype: torch.dtype = torch.float32):
        super().__init__(weights, {"lr": lr})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients; a weight without one stays."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.mul_(MOMENTUM).add_(weight.grad)
                turned = orthogonal((weight.grad + MOMENTUM * momentum).flatten(1).to(self._dtype))
                tall = max(1.0, len(weight) / weight[0].numel()) ** 0.5
                weight.sub_(turned.view_as(weight).to(weight.dtype), alpha=group["lr"] * tall)
