"""What a training prints while its device is set up: nothing."""

from __future__ import annotations

import subprocess
import sys


def test_bf16_is_not_announced_on_standard_error():
    code = (
        "from splitveil.recipe import Recipe; from splitveil.training.fabric import fabric_of; "
        "fabric_of(Recipe(precision='bf16-mixed'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""
