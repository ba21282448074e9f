"""Attacks on trained models (`attack_run`, `run_suite`): their scores, suites, and the reasons not to trust them."""

from importlib import import_module
from typing import Any

FACE = {"attack_run": "evaluate", "run_suite": "suites"}
"""Functions of this face, and their modules."""


def __getattr__(name: str) -> Any:
    """Import a function of the face when it is first used."""
    if name not in FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{FACE[name]}", __name__), name)
