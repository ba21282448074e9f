"""The used part of lightning-fabric, imported without what that library does not need here."""

from __future__ import annotations

import sys

# lightning-fabric imports torchmetrics to learn its version, and with it torchvision and the compiler: as long as
# torch itself takes. The answer matters to a callback that is not used here. None makes the import fail at once.
_installed = sys.modules.setdefault("torchmetrics", None)  # type: ignore[arg-type]
try:
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
    from lightning_fabric.strategies.ddp import DDPStrategy
finally:
    if _installed is None:
        del sys.modules["torchmetrics"]

__all__ = ["DDPStrategy", "Fabric", "LightningEnvironment", "TensorBoardLogger", "find_free_network_port"]
