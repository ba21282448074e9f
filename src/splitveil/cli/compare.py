"""`splitveil compare`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from ._shared import app, out_console, say, show_flags

if TYPE_CHECKING:
    from ..bench.comparison import Cells
    from ..comparison import Comparison, Row

TITLES = {"accuracy": "accuracy %", "mse": "MSE", "psnr": "PSNR dB", "ssim": "SSIM", "ssim_zero": "SSIM, black border"}
TITLES |= {"lpips": "LPIPS", "reidentified": "re-identified %"}

LISTED = 10
"""Names in a line, and notes under a table."""


@app.command
def compare(a: Path, b: Path, *, out: Path | None = None) -> None:
    """Show what B does better or worse than A: B − A with 95 % intervals, image by image where both saw the same.

    Parameters
    ----------
    a
        Run folder that `splitveil train` made and `splitveil attack` attacked, or a folder of `splitveil bench`.
    b
        Another one, attacked in the same way.
    out
        Also write all of it as JSON to this file.
    """
    from ..bench.comparison import Cells
    from ..bench.comparison import compare as compare_folders
    from ..files import write_json

    found = compare_folders(a, b)
    if out:
        write_json(out, {"a": str(a), "b": str(b), **found.as_dict()})
    if isinstance(found, Cells):
        equal = [name for name, cell in found.common.items() if _equal(cell)]
        if len(equal) < len(found.common):
            out_console.print(_cells_table(found, a, b, set(equal)))
        if equal:
            say(f"{len(equal)} of {len(found.common)} cells are equal")
        _say_of_cells(found, a, b)
        return
    out_console.print(_runs_table(found, a, b))
    for note in found.notes:
        say(note)
    show_flags(found.flags)


def _say_of_cells(found: Cells, a: Path, b: Path) -> None:
    for folder, only in ((a, found.only_a), (b, found.only_b)):
        if only:
            say(f"only in {folder}: {_listed(only)}")
    notes: dict[str, list[str]] = {}
    for name, cell in found.common.items():
        for note in cell.notes:
            notes.setdefault(note, []).append(name)
    for note in list(notes)[:LISTED]:
        say(f"{_listed(notes[note])}: {note}")
    if len(notes) > LISTED:
        say(f"and {len(notes) - LISTED} notes more; --out FILE.json keeps them all")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _runs_table(found: Comparison, a: Path, b: Path) -> Table:
    rows = found.rows
    if len({row.what for row in rows if row.what != "network"}) == 2:  # the worst case of one attack is that attack
        rows = tuple(row for row in rows if row.what != "worst case")
    table = Table("", "metric", "A", "B", "B − A [95 %]", "verdict", title=escape(f"A: {a}   B: {b}"))
    for row in rows:
        means = [f"{_scaled(row.metric) * side.mean:.4g}" for side in (row.a, row.b)]
        table.add_row(escape(row.what), TITLES[row.metric], *means, _difference(row), row.verdict)
    table.caption = _caption(rows)
    return table


def _cells_table(found: Cells, a: Path, b: Path, equal: set[str]) -> Table:
    shown = [m for m in TITLES if any(row.metric == m for cell in found.common.values() for row in cell.rows)]
    table = Table("cell", *(TITLES[m] for m in shown), title=escape(f"worst case and accuracy, B − A; A: {a}   B: {b}"))
    for name, cell in found.common.items():
        if name in equal:
            continue
        by_metric = {row.metric: row for row in cell.rows}
        axes = ", ".join(f"{key} {value}" for key, value in found.axes[name].items())
        table.add_row(escape(axes or name), *(_marked(by_metric[m]) if m in by_metric else "" for m in shown))
    table.caption = "bold: the interval excludes zero (a higher MSE is more private, a higher SSIM less); " + _caption(
        [row for cell in found.common.values() for row in cell.rows]
    )
    return table


def _equal(cell: Comparison) -> bool:
    """Whether not one image came out differently."""
    return all((row.difference.lo, row.difference.hi) == (0, 0) for row in cell.rows)


def _marked(row: Row) -> str:
    text = _difference(row)
    return text if row.difference.lo <= 0 <= row.difference.hi else f"[bold]{text}[/bold]"


def _difference(row: Row) -> str:
    scale = _scaled(row.metric)
    value = type(row.difference)(*(scale * x for x in (row.difference.mean, row.difference.lo, row.difference.hi)))
    return escape(str(value)) + ("" if row.paired else " *")


def _scaled(metric: str) -> int:
    return 100 if TITLES[metric].endswith("%") else 1


def _caption(rows: Sequence[Row]) -> str:
    text = "image by image on the same images; one interval in 20 misses its true value"
    return text + ("; * as if on different images" if any(not row.paired for row in rows) else "")
