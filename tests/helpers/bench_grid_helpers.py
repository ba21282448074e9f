"""Grid files of a few lines: written, loaded, and what is said of a bad one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from splitveil.bench.cells import Grid
from splitveil.bench.grid import load_grid
from splitveil.errors import UserError

BASE: dict[str, Any] = {"data": "digits", "arch": "resnet20_sgm", "cut": 2, "epochs": 3}
STACK = ["gaussian:{sigma}", "cem:{lambda}"]


def loader(folder: Path) -> Callable[..., Grid]:
    """A function that loads a grid from its values."""

    def load(base: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **sections: Any) -> Grid:
        path = folder / "grid.yaml"
        path.write_text(yaml.safe_dump({"base": BASE | (base or {}), **sections}, sort_keys=False), encoding="utf-8")
        return load_grid(path, **(options or {}))

    return load


def message(load: Callable[..., Any], *args: Any, **sections: Any) -> str:
    """The one line that a refused grid leaves."""
    with pytest.raises(UserError) as error:
        load(*args, **sections)
    assert "\n" not in str(error.value)
    return str(error.value)
