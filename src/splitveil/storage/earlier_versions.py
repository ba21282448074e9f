"""Parameters that defenses gained after records had been written, and the values that those records stand for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from . import yaml_files

WRITTEN = re.compile(r"# (splitveil|coded_from|hardened_from): ")
"""Beginning of a line of comment in every file of settings that a run writes, and in no other."""
LATER: dict[str, dict[str, Any]] = {
    "dropout": {"rescale": True},
    "nopeek": {"squared": False, "normalized": False},
    "adversarial": {"padding": "valid"},
    "adversarial_noise": {"padding": "valid"},
    "hsic": {"form": "plain"},
    "cem": {"per_class": True, "follow": 0},
}
"""Parameters that defenses gained after grids had been trained, at the values with which they are what they were: no
part of a cell's id, so that what is trained is not trained again. Where such a value is not the default, a cell that
leaves it to the default is a new one."""


def as_before(spec: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a defense without the parameters that came later, where they change nothing."""
    ((name, parameters),) = spec.items()
    later = LATER.get(name, {})
    if name == "cem" and parameters.get("loss") == "released":
        later = {**later, "follow": parameters.get("follow")}  # it changes the bound only
    return {name: {key: value for key, value in parameters.items() if key not in later or value != later[key]}}


def as_trained(spec: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return a stored defense with the parameters that came after it, at the values with which it was trained.

    >>> as_trained({"hsic": {"weight": 0.05}})
    {'hsic': {'form': 'plain', 'weight': 0.05}}
    """
    ((name, parameters),) = spec.items()
    return {name: {**LATER.get(name, {}), **parameters}}


def settings_in(path: Path) -> dict[str, Any]:
    """Return the settings of a YAML file; of one that a run wrote, with the defenses as they were trained.

    Args:
        path: config.yaml of a run, which names every parameter that there was then, or a file that somebody wrote.

    Raises:
        UserError: as of `yaml_files.load`.
    """
    values = yaml_files.load(path)
    stack, head = values.get("defense"), path.read_text(encoding="utf-8").splitlines()
    if isinstance(stack, list) and any(WRITTEN.match(line) for line in head):
        values["defense"] = [as_trained(spec) if _is_whole(spec) else spec for spec in stack]
    return values


def _is_whole(spec: Any) -> bool:
    return isinstance(spec, dict) and len(spec) == 1 and all(isinstance(value, dict) for value in spec.values())
