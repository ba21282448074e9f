"""Settings that a run was trained with, which are compared before it is used again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import config
from .errors import UserError, shown
from .recipe import Recipe

ELSEWHERE = ("root", "protocol")
"""Settings that may differ: where the images are today, and who attacks, which cells of one training may differ in."""

BEFORE = Recipe.model_validate({}).model_dump(mode="json", exclude={"recipe", "crop_padding", "flip"})
"""Settings of the recipe at the values of a run of before there was such a setting; those of the images differ."""


def of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that what was trained depends on.

    Args:
        values: settings as in a config.yaml.

    >>> of({"data": "folder:root=faces,size=64", "root": None, "seed": 0})
    {'data': 'folder:size=64', 'seed': 0}
    """
    kept = {name: value for name, value in values.items() if name not in ELSEWHERE}
    return kept | ({"data": config.divided(str(kept["data"]))[0]} if "data" in kept else {})


def check(kept: Mapping[str, Any], settings: config.TrainConfig, file: Path) -> None:
    """Compare settings with those that were kept; what only a later version has may be added, as it was before.

    Args:
        kept: answer of `of` when the run was trained.
        settings: resolved settings as they are today.
        file: where they are, for the message.

    Raises:
        UserError: a setting has another value, or does not exist any more.
    """
    now = of(settings.model_dump(mode="json"))
    kept = {**BEFORE, **kept} if kept else {}  # a run whose settings were not kept has nothing to compare
    changed = [
        f"{name} was {shown(value)}, now {shown(now[name]) if name in now else 'missing'}"
        for name, value in kept.items()
        if name not in now or not _holds(now[name], value)
    ]
    if changed:
        raise UserError(
            f"{file} was changed since this run was trained: {'; '.join(changed)}; put back what was there, or train "
            "with other settings in a folder of their own"
        )


def _holds(now: Any, kept: Any) -> bool:
    """Return whether a value is the one that was kept; parameters of a later version may stand beside it."""
    if isinstance(now, Mapping) and isinstance(kept, Mapping):
        return all(name in now and _holds(now[name], value) for name, value in kept.items())
    if isinstance(now, list) and isinstance(kept, list):
        return len(now) == len(kept) and all(map(_holds, now, kept))
    return type(now) is type(kept) and now == kept
