"""The only door for the published code's command lines, scripts and checkpoints.

Option strings are read here only: all code behind this package uses `TrainConfig` and `name:key=value`.
"""

from __future__ import annotations

from .checkpoint import import_checkpoint
from .script import Grid, read_script
from .translate import Translation, read_options

__all__ = ["Grid", "Translation", "import_checkpoint", "read_options", "read_script"]
