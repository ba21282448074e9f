"""Memory that is kept instead of being given back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from splitveil.nn.allocator import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
import torch
for _ in range(10):  # the heap grows until a freed place fits
    torch.ones(2**24)  # 64 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}  # huge pages alone would hide most faults
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True, env=environment
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_freed_memory_is_used_again_without_a_page_fault():
    assert faults("leave") > 10 * max(1, faults("keep"))
