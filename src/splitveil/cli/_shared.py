"""The shared parts of the commands: the app, the consoles, and how figures are printed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter, Token
from rich import box
from rich.console import Console
from rich.markup import escape

from .. import __version__
from ..storage.files import expanded

app = App(
    name="splitveil",
    help="Train split networks whose wire gives less away, attack them, and show what an attacker sees.",
    version=__version__,
    result_action="return_value",
    suppress_keyboard_interrupt=False,  # main prints what was kept
)


def _place(kind: Any, tokens: Sequence[Token]) -> Any:
    """Return a path of the command line, as a shell would read it; a text stays a text."""
    given = tokens[-1].value
    place = expanded(given)
    return place if kind is not str else str(place) if given.startswith("~") else given


Place = Annotated[Path, Parameter(converter=_place)]
"""A path, whose ``~`` is replaced and whose names are checked: every path of every command is one."""
MaybePlace = Annotated[Path | None, Parameter(converter=_place)]
"""A `Place` that may be left out."""
PlaceText = Annotated[str, Parameter(converter=_place)]
"""A path that may also be something else: a pattern, or a name."""
out_console, error_console = Console(), Console(stderr=True)

LOOK: dict[str, Any] = {"box": box.SIMPLE_HEAD, "show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0)}
"""Look of tables with many columns, which must fit 80 letters."""
WIDE = 120
"""Letters of a line that hold several columns of means with their intervals beside them."""


def say(line: str) -> None:
    """Print a line as it is, because a path must survive copying."""
    out_console.print(line, markup=False, highlight=False, soft_wrap=True)


def show_flags(flags: Iterable[str]) -> None:
    """Print flags on standard error."""
    for flag in flags:
        error_console.print(f"[yellow]flag[/yellow] {escape(flag)}")


def interval(value: dict[str, Any], *, percent: bool = False) -> str:
    """Return a mean and its interval, as a summary has them, with as many digits as the interval supports."""
    from ..statistics.intervals import Interval

    return escape(format(Interval.from_dict(value), ".2%" if percent else ""))


def in_two_lines(figure: str) -> str:
    r"""Return a mean with its interval below it, for tables of several such columns on a terminal of 80 letters.

    >>> in_two_lines("0.00086 [0.00076, 0.00097]")
    '0.00086\n[0.00076, 0.00097]'
    """
    return figure.replace(" ", "\n", 1)


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(4.2), duration(150), duration(9000)
    ('4.2 s', '2.5 min', '2.5 h')
    """
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.2g} {name}"
    return f"{seconds / 3600:.2g} h"


def coded(run: Any, images: Any, codec: str, place: Path | None = None) -> Any:
    """Return a run whose wire is sent by a codec, in ``place`` where that is given, and say where it is."""
    from ..coded import coded_run

    found = coded_run(run, images, codec, place)
    where = "" if place else f"; see {found.path}"
    say(f"codec: {found.summary['coding']['codec']}, {found.summary['wire']['bytes']:,} bytes an image{where}")
    return found
