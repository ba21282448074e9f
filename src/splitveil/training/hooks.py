"""Hooks on a network for one pass of images, after which it is as it was."""

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
