"""What a training may leave as it is in a network: hooks for one pass of images, and norms that are frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def hooked(parts: nn.Module, handles: list[RemovableHandle]) -> Iterator[None]:
    """Put modules into evaluation mode; at the end take the hooks away and give every module its own mode back.

    Args:
        parts: modules through which images go.
        handles: of the hooks on them.
    """
    modes = {module: module.training for module in parts.modules()}
    parts.eval()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode


def frozen_norms(*halves: nn.Module) -> list[nn.Module]:
    """Return the batch norms whose weights are not trained: their statistics shall stay, too.

    Otherwise an encoder with `requires_grad_(False)`, which devices may have already, would become another one. A norm
    without weights belongs to those of its half.

    Args:
        halves: of the network, whose modules are looked through.

    >>> layers = nn.Sequential(nn.BatchNorm2d(2).requires_grad_(False), nn.BatchNorm2d(3))
    >>> [norm.num_features for norm in frozen_norms(layers)]
    [2]
    """
    found = []
    for half in halves:
        norms = [module for module in half.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
        weights = [(norm, list(norm.parameters()) or list(half.parameters())) for norm in norms]
        found += [norm for norm, own in weights if own and not any(weight.requires_grad for weight in own)]
    return found
