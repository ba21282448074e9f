"""Memory that is kept instead of being given back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import os, resource
import torch
from splitveil.nn.allocator import keep_memory
for keep in (False, True):  # each in a process of its own, whose heap is as the other found it
    if (child := os.fork()) == 0:
        if keep:
            assert keep_memory()
        for _ in range(10):  # the heap grows until a freed place fits
            torch.ones(2**24)  # 64 MiB
        found = []
        for _ in range(9):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(2**24)
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        print(sorted(found)[4], flush=True)  # the median: something small may take a freed place now and then
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


def faults() -> tuple[int, int]:
    """Page faults of a large tensor in a process as it is, and in one that keeps its memory."""
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}  # huge pages alone would hide most faults
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True, env=environment)
    plain, kept = done.stdout.split()
    return int(plain), int(kept)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_used_again_without_a_page_fault():
    plain, kept = faults()
    assert plain > 10 * max(1, kept)
