"""Settings that are given over those of a file: flags over --config, and the axes of a grid over its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import config, recipe
from .storage.files import expanded


def over(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Return a file's settings with others over them; of a run's file, what follows from a change follows anew.

    The config.yaml of a run names every setting, also those that nobody chose: the defaults of its recipe, and the
    augmentation and the folder of its image set. A value that differs from such a default was chosen, and stays. In a
    file that names only some settings, somebody chose all of them.

    Args:
        values: settings of the file, by name.
        given: settings that take the place of the file's.

    >>> run = {"recipe": "published", "epochs": 240, "batch_size": 128, "lr": 0.1, "warmup_epochs": 1, "rotate": 15}
    >>> over(run, {"recipe": "fast"}), over({"epochs": 240, "lr": 0.05}, {"recipe": "fast"})
    ({'recipe': 'fast', 'lr': 0.1}, {'epochs': 240, 'lr': 0.05, 'recipe': 'fast'})
    >>> over({"data": "folder:a", "root": "/x/a", "seed": 1}, {"data": "folder:b"})
    {'data': 'folder:b', 'seed': 1}
    """
    whole = recipe.NAMED.issubset(values.keys() | given.keys())
    below = recipe.beneath(values, given) if whole else values
    if "data" in given:
        own, new = str(below.get("data") or ""), str(given["data"] or "")
        follow = {key for key, value in config.augmentation(own).items() if whole and below.get(key) == value}
        # Another image set does not lie in the folder of the file's.
        inside = config.divided(new)[1] or config.divided(own)[1]
        if "root" not in given and (inside or (whole and _is_default(below.get("root"), own))):
            follow.add("root")
        below = {key: value for key, value in below.items() if key not in follow}
    return below | given


def _is_default(root: Any, data: str) -> bool:
    """Return whether a folder is where the image set looks by itself."""
    default = config.own_root(data)
    return default is not None and isinstance(root, str | Path) and expanded(root).absolute() == default.absolute()
