"""A mode that counts what would make the host wait for an accelerator."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense",  # item(), float(tensor), bool(tensor), `if tensor`
    "nonzero",
    "masked_select",
    "equal",
    "is_nonzero",
    "bincount",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
}
"""Operators whose result decides on the host, or has a shape that only the values tell."""
ON_THE_HOST = {("optim", "adam.py"), ("nn", "winograd.py")}
"""Adam counts its steps on the host, and Winograd layers only ever run there."""


class Waits(TorchDispatchMode):
    """Count the operators that would make the host wait for an accelerator."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1]
        )
        if (name in WAITING or by_mask) and not on_the_host():
            self.found[name + (" with a mask" if by_mask else "")] += 1
        return func(*args, **(kwargs or {}))


def on_the_host() -> bool:
    frames = traceback.walk_stack(None)
    return any(Path(frame.f_code.co_filename).parts[-2:] in ON_THE_HOST for frame, _ in frames)
