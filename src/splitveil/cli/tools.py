"""`splitveil legacy` and `splitveil list`."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from ..errors import unknown
from ..registry import Registry
from ._shared import app, out_console, say

LISTS = {
    "models": "zoo",
    "decoders": "zoo.decoders",
    "data": "data",
    "defenses": "defenses",
    "attacks": "attacks",
    "bounds": "bounds",
}


@app.command
def legacy(*tokens: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Read the published code's scripts, option strings and checkpoints (docs/legacy.md).

    Parameters
    ----------
    tokens
        run_exp.sh, a checkpoint folder with --out RUN, or options: --AT_regularization gan_adv_step1 ...
    """
    from ..legacy import command

    say(command.run(list(tokens)))


@app.command(name="list")
def list_(what: str | None = None, /) -> None:
    """Show what can be named: models, decoders, data, defenses, attacks, bounds.

    Parameters
    ----------
    what
        One of these; all without it.
    """
    if what is not None and what not in LISTS:
        raise unknown("list", what, LISTS)
    for title, kind in LISTS.items():
        if what in (None, title):
            registry = Registry(kind)
            settings = kind in ("defenses", "attacks", "bounds")
            table = Table("name", "what it is", *(["settings"] * settings), title=title, title_justify="left")
            for name, line in registry.describe():
                table.add_row(name, escape(line), *([escape(_settings(registry.get(name)))] * settings))
            out_console.print(table)


def _settings(kind: Any) -> str:
    parameters = inspect.signature(kind).parameters.values()
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters)
