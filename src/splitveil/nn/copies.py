"""Copies of modules that hold results of a computation with gradients."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def copy_of(module: M) -> M:
    """Return a copy of a module; what it has computed from its parameters is copied as plain numbers.

    `copy.deepcopy` refuses such tensors. Layers with `torch.nn.utils.weight_norm` or `torch.nn.utils.spectral_norm`
    hold one after a forward pass with gradients, and compute it anew in the next one.

    Args:
        module: any module.

    >>> layer = nn.utils.spectral_norm(nn.Linear(2, 2))
    >>> _ = layer(torch.ones(1, 2))
    >>> layer.weight.grad_fn is None, copy_of(layer).weight.grad_fn is None
    (False, True)
    """
    held = [value for part in module.modules() for kept in (vars(part), part._buffers) for value in kept.values()]
    computed = {
        id(value): value.detach().clone() for value in held if isinstance(value, torch.Tensor) and value.grad_fn
    }
    return copy.deepcopy(module, computed)
