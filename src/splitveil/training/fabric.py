"""The used part of lightning-fabric, imported without what that library does not need here."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import torch

from ..recipe import Recipe, precision

NVML = "PYTORCH_NVML_BASED_CUDA_CHECK"
"""Variable with which PyTorch asks the driver's library, and not CUDA, whether there is a GPU."""

# lightning-fabric imports torchmetrics to learn its version, and with it torchvision and the compiler: as long as
# torch itself takes. The answer matters to a callback that is not used here. None makes the import fail at once.
_asks = os.environ.get(NVML)
_installed = sys.modules.setdefault("torchmetrics", None)  # type: ignore[arg-type]
try:
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
    from lightning_fabric.strategies.ddp import DDPStrategy
finally:
    if _installed is None:
        del sys.modules["torchmetrics"]
    # lightning-fabric sets it, and PyTorch then looks for the driver's library several times at each step of Adam.
    # Where there is none, a step of a small network takes three times as long; where there is a GPU, it stays.
    if _asks is None and not torch.cuda.is_available():
        os.environ.pop(NVML, None)

__all__ = ["DDPStrategy", "Fabric", "LightningEnvironment", "TensorBoardLogger", "fabric_of", "find_free_network_port"]


def fabric_of(settings: Recipe, **more: Any) -> Fabric:
    """Return the device, the processes and the precision in which a training of these settings runs.

    Args:
        settings: devices and precision of a recipe; "auto" is bf16 where the hardware computes in it.
        more: further arguments of Fabric.

    >>> from ..recipe import Recipe
    >>> str(fabric_of(Recipe.model_validate({"precision": "bf16-mixed"})).strategy.precision.precision)
    'bf16-mixed'
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    chosen: Any = precision(settings.precision, device)
    logger = logging.getLogger("lightning_fabric")
    before = logger.level
    # It announces bf16 on standard error, where an error of ours is to be the only line; summaries name the precision.
    logger.setLevel(logging.WARNING)
    try:
        return Fabric(accelerator=device.type, devices=settings.devices, precision=chosen, **more)
    finally:
        logger.setLevel(before)
