"""Memory that is kept for the next step instead of being given back to the system."""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Numbers of the settings in glibc's malloc.h."""
MOST = 2**31 - 1


def keep_memory() -> bool:
    """Let this process keep freed memory for itself, in huge pages where there are some; return whether it could.

    glibc asks the system for every tensor above 32 MiB anew and gives it back when it is freed, so that a training
    step on the CPU spends a quarter of its time on the clearing of pages. The setting holds for the whole process,
    which is why only commands and workers of grids make it. It does nothing to the results.

    >>> import sys
    >>> keep_memory() or sys.platform != "linux" or platform.libc_ver()[0] != "glibc"
    True
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch reads it at its first allocation
    malloc = ctypes.CDLL(None)
    return bool(malloc.mallopt(M_MMAP_MAX, 0)) and bool(malloc.mallopt(M_TRIM_THRESHOLD, MOST))


def give_back() -> None:
    """Give freed memory back to the system, where the C library is glibc: after something large was read once."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
