"""`splitveil legacy` and `splitveil list`."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Column, Table

from ..errors import unknown
from ..registry import Registry
from ._shared import LOOK, app, out_console, say

LISTS = {
    "models": "zoo",
    "decoders": "zoo.decoders",
    "data": "data",
    "defenses": "defenses",
    "attacks": "attacks",
    "bounds": "bounds",
}
WIDEST = 40
"""Most letters of a name that a table of 80 has room for."""
WITH_SETTINGS = ("defenses", "attacks", "bounds")


@app.command
def legacy(*tokens: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Read the published code's scripts, option strings and checkpoints (docs/legacy.md).

    Args:
        tokens: run_exp.sh, a checkpoint folder with --out RUN, or options: --AT_regularization gan_adv_step1 ...
    """
    from ..legacy import command

    say(command.run(list(tokens)))


@app.command(name="list")
def list_(what: str | None = None, /, *, every: Annotated[bool, Parameter(name="--all", negative="")] = False) -> None:
    """List what can be named: models, decoders, data, defenses, attacks, bounds.

    Args:
        what: One of these, with its settings; without it all, one line for names that differ in a depth or an ending:
            of
            vgg11|13[_sgm] one writes vgg11, vgg11_sgm, vgg13 or vgg13_sgm.
        every: Give every name a line of its own.
    """
    what = "models" if what == "networks" else what
    if what is not None and what not in LISTS:
        raise unknown("list", what, LISTS)
    for title, kind in LISTS.items():
        if what in (None, title):
            _show(title, Registry(kind), every=every, settings=what is not None and kind in WITH_SETTINGS)
    if what is None:
        say("with settings: splitveil list defenses, or attacks, or bounds")
        say("every name in full: splitveil list models --all")


def _show(title: str, registry: Registry, every: bool, settings: bool) -> None:
    rows = [([name], name) for name in registry.names()] if every else registry.families()
    # A name that is broken cannot be copied.
    name = Column("name", overflow="fold", no_wrap=max(len(shown) for _, shown in rows) <= WIDEST)
    table = Table(name, "what it is", *(["settings"] * settings), title=title, title_justify="left", **LOOK)
    lines = dict(registry.describe())
    for names, shown in rows:
        more = [escape(_settings(registry.get(names[0])))] if settings else []
        table.add_row(escape(shown), escape(lines[names[0]]), *more)
    out_console.print(table)
    out_console.print()


def _settings(kind: Any) -> str:
    parameters = inspect.signature(kind).parameters.values()
    return ", ".join(p.name if p.default is p.empty else f"{p.name}={p.default}" for p in parameters)
