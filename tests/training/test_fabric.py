"""What is loaded before a training, and what a training prints while its device is set up: nothing."""

from __future__ import annotations

import os
import subprocess
import sys

from splitveil.training.fabric import NVML

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
import os, torch

print(torch.cuda.is_available() or "PYTORCH_NVML_BASED_CUDA_CHECK" not in os.environ)
"""


def test_only_a_training_loads_lightning_and_bf16_is_not_announced():
    """Splitting a network, and all plug-ins, need none of the heavy libraries: they took longer than torch."""
    surroundings = {name: value for name, value in os.environ.items() if name != NVML}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=surroundings)
    assert done.stdout == "[]\nTrue\n"  # and no step of an optimizer looks for a driver that is not there
    assert done.stderr == ""
