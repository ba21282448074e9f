"""What a command line lacks or has too much, in the words of the command's help."""

from __future__ import annotations

from typing import Any

from cyclopts import CycloptsError
from cyclopts.exceptions import MissingArgumentError, UnknownOptionError, UnusedCliTokensError

from ._shared import app

OTHER_NAMES = {
    "arch": ("network", "net", "model", "architecture", "backbone"),
    "attack": ("attacks", "method"),
    "attacked": ("images", "test-images", "num-images", "victims"),
    "batch-size": ("batch", "bs"),
    "bottleneck": ("channels", "bottleneck-channels"),
    "choose": ("best", "early-stopping", "keep"),
    "cut": ("layer", "cut-layer", "cutlayer", "split", "split-layer", "split-point"),
    "data": ("dataset", "data-set"),
    "defense": ("noise", "sigma", "std", "regularization", "lambda"),
    "devices": ("device", "gpu", "gpus", "cuda"),
    "epochs": ("epoch", "num-epochs", "iterations", "steps"),
    "jobs": ("workers", "num-workers", "parallel", "processes"),
    "lr": ("learning-rate", "rate"),
    "max-drop": ("drop", "max-loss", "accuracy-drop"),
    "observed": ("looks", "observations", "queries"),
    "out": ("output", "out-dir", "output-dir", "save", "save-dir", "save-path", "folder"),
    "precision": ("amp", "bf16", "fp16", "dtype", "half"),
    "protocol": ("threat-model", "attacker"),
    "root": ("data-dir", "data-root", "dataset-dir", "path"),
    "seed": ("random-seed", "manual-seed", "seeds"),
    "weight-decay": ("wd", "decay", "l2"),
}
"""Options -> the names that other projects have for them, without the dashes in front."""


def explained(error: CycloptsError) -> str:
    """Return what is wrong with a command line, and what is expected.

    Args:
        error: as the parser raised it.

    Returns:
        A sentence that calls arguments what ``splitveil COMMAND --help`` calls them.
    """
    if not error.command_chain:
        return str(error)
    command = " ".join(error.command_chain)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        lacks = (
            f"{error.keyword} needs a value" if error.keyword else f"splitveil {command} needs {_name(error.argument)}"
        )
        return f"{lacks}; {_help(command)}"
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        rest = " ".join(error.unused_tokens)
        places = [_name(argument) for argument in app[command].assemble_argument_collection() if _by_place(argument)]
        taken = f"only {' '.join(places)} and options" if places else "options only"
        return f"unexpected: {rest}; splitveil {command} takes {taken}, whose names begin with --; {_help(command)}"
    if isinstance(error, UnknownOptionError) and (ours := _ours(command, error.token.keyword or error.token.value)):
        return f"unknown option {ours[0]}; the one for this is {ours[1]}; {_help(command)}"
    return str(error)


def _ours(command: str, given: str) -> tuple[str, str] | None:
    """Return an unknown option and the one of a command that means the same; None where there is none."""
    given = given.partition("=")[0]
    word = given.lstrip("-").replace("_", "-").lower()
    meant = next((f"--{name}" for name, others in OTHER_NAMES.items() if word in others), "")
    has = any(meant in argument.names for argument in app[command].assemble_argument_collection())
    return (given, meant) if has else None


def _by_place(argument: Any) -> bool:
    return argument.field_info.is_positional


def _name(argument: Any) -> str:
    return argument.names[0].lstrip("-").upper() if _by_place(argument) else argument.names[0]


def _help(command: str) -> str:
    return f"see splitveil {command} --help"
