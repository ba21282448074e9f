"""What a command line lacks or has too much, in the words of the command's help."""

from __future__ import annotations

from typing import Any

from cyclopts import CycloptsError
from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

from ._shared import app


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
    return str(error)


def _by_place(argument: Any) -> bool:
    return argument.field_info.is_positional


def _name(argument: Any) -> str:
    return argument.names[0].lstrip("-").upper() if _by_place(argument) else argument.names[0]


def _help(command: str) -> str:
    return f"see splitveil {command} --help"
