"""Exports that share what PyTorch prepares for each of them anew."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def quick_exports() -> Iterator[None]:
    """The exporter's table of operators, which no export changes, is built once: it takes a second."""
    from torch.onnx._internal.exporter import _registration

    table = functools.cache(_registration.ONNXRegistry.from_torchlib)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_registration.ONNXRegistry, "from_torchlib", staticmethod(table))
        yield
