"""What is loaded before a training, and what a training prints while its device is set up: nothing."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import splitveil.api
from splitveil.recipe import Recipe
from splitveil.registry import KINDS, Registry

for kind in KINDS:
    Registry(kind)
heavy = "lightning_fabric", "matplotlib", "onnx", "plotly", "scipy", "sklearn", "timm", "torch._dynamo", "torchvision"
print(sorted(set(heavy) & sys.modules.keys()))
from splitveil.training.fabric import fabric_of

fabric_of(Recipe(precision="bf16-mixed"))
"""


def test_only_a_training_loads_lightning_and_bf16_is_not_announced():
    """Splitting a network, and all plug-ins, need none of the heavy libraries: they took longer than torch."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert done.stderr == ""
