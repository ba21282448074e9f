"""A mode that counts what would make the host wait for an accelerator."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {
    "_local_scalar_dense",  # item(), float(tensor), bool(tensor), `if tensor`
    "nonzero",
    "masked_select",
    "equal",
    "allclose",
    "is_nonzero",
    "bincount",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "_linalg_check_errors",  # inv, cholesky, solve: whether it could be done
    "_linalg_eigh",
    "_linalg_svd",
    "linalg_eig",
    "linalg_lstsq",
}
"""Operators whose result decides on the host, or has a shape that only the values tell."""
COPYING = {"tolist", "numpy", "cpu", "__array__"}
"""Methods that bring values to the host, which on tensors that lie there come to no operator."""
ON_THE_HOST = {("optim", "adam.py"), ("nn", "winograd.py")}
"""Adam counts its steps on the host, and Winograd layers only ever run there."""


class Waits(TorchDispatchMode):
    """Count the operators and methods that would make the host wait for an accelerator.

    ``x.to(device)`` is counted only where the device is written "cpu": in a test every device is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self._methods = _Methods(self)

    def __enter__(self):
        self._methods.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._methods.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            part is not None and part.dtype in (torch.bool, torch.uint8) for part in args[1]
        )
        sized = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in WAITING or by_mask or sized:
            self.count(name + (" with a mask" if by_mask else ""))
        return func(*args, **(kwargs or {}))

    def count(self, name: str) -> None:
        if not on_the_host():
            self.found[name] += 1


class _Methods(TorchFunctionMode):
    """Hand what `COPYING` and ``to("cpu")`` are called for to a `Waits`."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if name in COPYING or (name == "to" and "cpu" in _texts(*args[1:], *(kwargs or {}).values())):
            self.waits.count(name)
        return func(*args, **(kwargs or {}))


def _texts(*values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)]


def on_the_host() -> bool:
    frames = traceback.walk_stack(None)
    return any(Path(frame.f_code.co_filename).parts[-2:] in ON_THE_HOST for frame, _ in frames)
