"""Defenses at equal accuracy with noise alone, for the page and as a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..results.equal_accuracy import OUTSIDE, Equal
from ..results.export import Table, signed
from ..results.groups import Arena
from ..statistics.evidence import LEAST
from ..statistics.intervals import Interval

TITLES: tuple[str, ...] = (
    "defense",
    "seeds",
    "accuracy %",
    "MSE",
    "noise alone there",
    "same σ, MSE %",
    "equal accuracy, MSE %",
)
TITLES += ("p, Holm", "verdict")


def relative(value: Interval | None) -> str:
    """A difference of logarithms as a change in percent.

    >>> relative(Interval(0.1, -0.05, 0.2)), relative(None)
    ('+11 [−5, 22]', '–')
    """
    if value is None:
        return "–"
    # Of two trainings an interval may reach so far that its end is no number to print.
    return signed(Interval(*(100 * math.expm1(min(end, 20.0)) for end in (value.mean, value.lo, value.hi))), ".0f")


def short(row: Equal | None) -> str:
    """The difference at equal accuracy as a cell of a table."""
    if row is None:
        return "–"
    return f"{relative(row.difference)} %" if row.difference else row.why


def table(found: Sequence[tuple[Arena, Equal]]) -> Table:
    """One row for each defense that has a curve of noise."""
    rows = [
        {
            "arena": arena.name,
            "setup": row.setup.name,
            "seeds": len(row.seeds),
            "accuracy_of": row.measured,
            "accuracy": _known(row.accuracy),
            "mse": _known(row.mse),
            "noise_mse": _known(row.reference),
            **_columns("log_mse_same_sigma", row.raw),
            **_columns("log_mse_equal_accuracy", row.difference),
            "beyond_the_curve": row.beyond,
            "p_holm": _known(row.p),
            "verdict": row.verdict,
        }
        for arena, row in found
    ]
    caption = (
        "Defenses against noise alone. Same σ: change of the best attacker's MSE against noise alone of that strength; "
        "equal accuracy: against noise alone at the strength where it is as accurate, interpolated. 95 % intervals by "
        "the bootstrap over seeds and images; p corrected for the number of rows (Holm)."
    )
    shown = [dict(zip(TITLES, line, strict=True)) for _, row in found for line in [_cells(row)]]
    return Table("equal_accuracy", caption, rows, shown)


def for_page(arena: Arena, found: Sequence[Equal]) -> dict[str, Any]:
    """The table of one arena as the page's template wants it."""
    return {"title": arena.name, "columns": TITLES, "rows": [_cells(row) for row in found]}


def words(found: Sequence[Equal]) -> str:
    """One sentence on all defenses; empty without any."""
    if not found:
        return ""
    total, outside = len(found), sum(row.why == OUTSIDE for row in found)
    more, less = (sum(row.verdict == f"{word} private" for row in found) for word in ("more", "less"))
    enough = sum(len(row.seeds) >= LEAST and row.difference is not None for row in found)
    if not enough:
        text = f"A verdict at equal accuracy needs {LEAST} seeds of each; here it can be given for none of {total}"
    else:
        text = (
            f"Against noise alone at equal accuracy, more error is shown in {more} and less in {less} of {enough} "
            "comparisons (p corrected for their number, Holm)"
        )
    beyond = f". Outside the curve of noise, and not compared: {outside} of {total}" if outside else ""
    return f"{text}{beyond}."


def _cells(row: Equal) -> tuple[str, ...]:
    accuracy = "–" if row.accuracy is None else f"{100 * row.accuracy:.1f} ({row.measured})"
    errors = ("–" if value is None else f"{value:.4g}" for value in (row.mse, row.reference))
    p = "–" if row.p is None else "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"
    about = (row.setup.name, str(len(row.seeds)), accuracy, *errors)
    return (*about, relative(row.raw), relative(row.difference), p, row.verdict + _near_the_end(row))


def _near_the_end(row: Equal) -> str:
    near = row.difference is not None and row.beyond > 0.05
    return f"; near the curve’s end ({100 * row.beyond:.0f} % of the resamples beyond it)" if near else ""


def _known(value: float | None) -> float | str:
    return "" if value is None else value


def _columns(name: str, value: Interval | None) -> dict[str, float | str]:
    ends = (value.mean, value.lo, value.hi) if value else ("", "", "")
    return dict(zip((name, f"{name}_lo", f"{name}_hi"), ends, strict=True))
