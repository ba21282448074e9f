"""The arithmetic of the processor."""

from __future__ import annotations

from typing import Any

NAMES = {
    "avx2": "_is_avx2_supported",
    "avx512_f": "_is_avx512_supported",
    "avx512_bf16": "_is_avx512_bf16_supported",
    "amx_bf16": "_is_amx_tile_supported",
}
"""Capabilities that the package asks for, and the functions that told them before PyTorch had one for all."""


def capabilities() -> dict[str, bool]:
    """Return which of avx2, avx512_f, avx512_bf16 and amx_bf16 the processor has.

    >>> sorted(capabilities())
    ['amx_bf16', 'avx2', 'avx512_bf16', 'avx512_f']
    """
    import torch

    cpu: Any = torch.cpu
    if hasattr(cpu, "get_capabilities"):
        found = cpu.get_capabilities()
        return {name: bool(found.get(name)) for name in NAMES}
    return {name: bool(getattr(cpu, function)()) for name, function in NAMES.items()}
