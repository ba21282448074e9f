"""`splitveil compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Column, Table

from ._compared import TITLES, caption, difference, runs_table, share
from ._shared import LOOK, WIDE, MaybePlace, PlaceText, app, in_two_lines, out_console, say, show_flags

if TYPE_CHECKING:
    from ..results.comparison import Cells
    from ..results.comparison_rows import Comparison, Row

NOTES = 10
"""Most notes under a table."""


@app.command
def compare(a: PlaceText, b: PlaceText, *, margin: float | None = None, out: MaybePlace = None) -> None:
    """Show what B does better or worse than A: B − A with 95 % intervals, image by image where both saw the same.

    One training of each compares these two trainings and no more; a verdict needs three or more, with the same seeds.

    Args:
        a: Run folder that `splitveil train` made and `splitveil attack` attacked; several that differ in their seed, as
            a pattern in quotes such as 'runs/noise-*'; or a folder of `splitveil bench`.
        b: Another one, or others with the same seeds, attacked in the same way.
        margin: Loss of accuracy, in points, that is to be excluded; name it before you look. By default the one that a
            grid has named, else 1.
        out: Also write all of it as JSON to this file.
    """
    from ..results.comparison import Cells
    from ..results.comparison import compare as compare_folders
    from ..results.records import named_margin
    from ..statistics.evidence import MARGIN
    from ..storage.files import write_json

    if margin is None:
        margin = named_margin((Path(a), Path(b))) or MARGIN
    found = compare_folders(a, b, margin)
    if out:
        write_json(out, {"a": a, "b": b, "margin_points": margin, **found.as_dict()})
    if isinstance(found, Cells):
        equal = [name for name, cell in found.common.items() if _equal(cell)]
        if len(equal) < len(found.common):
            out_console.print(_cells_table(found, a, b, set(equal)))
        if equal:
            say(f"{len(equal)} of {len(found.common)} configurations are equal")
        _say_of_cells(found, a, b)
        return
    out_console.print(runs_table(found, a, b))
    for note in found.notes:
        say(note)
    show_flags(found.flags)


def _say_of_cells(found: Cells, a: str, b: str) -> None:
    from ..results.left_out import listed

    for folder, only in ((a, found.only_a), (b, found.only_b)):
        if only:
            say(f"left out, finished only in {folder}: {listed(only)}")
    for note in (*found.undone_a.notes(a), *found.undone_b.notes(b)):
        say(note)
    notes: dict[str, list[str]] = {}
    for name, cell in found.common.items():
        for note in cell.notes:
            notes.setdefault(note, []).append(name)
    for note in list(notes)[:NOTES]:
        say(f"{listed(notes[note])}: {note}")
    if len(notes) > NOTES:
        say(f"and {len(notes) - NOTES} notes more; --out FILE.json keeps them all")


def _cells_table(found: Cells, a: str, b: str, equal: set[str]) -> Table:
    shown = [m for m in TITLES if any(row.metric == m for cell in found.common.values() for row in cell.rows)]
    attackers = {row.what for cell in found.common.values() for row in cell.rows} - {"network"}
    who = " or ".join(sorted(attackers)) or "no attack"
    title = escape(f"{who} and accuracy, B − A; A: {a}   B: {b}")
    shares = any(row.share for cell in found.common.values() for row in cell.rows)
    columns = ("configuration", "seeds", *(TITLES[m] for m in shown), *(("A to class mean %",) if shares else ()))
    table = Table(*(Column(name, overflow="fold") for name in columns), title=title, **LOOK)
    for name, cell in found.common.items():
        if name in equal:
            continue
        by_metric = {row.metric: row for row in cell.rows}
        axes = ", ".join(f"{key} {value}" for key, value in found.axes[name].items())
        figures = (_marked(by_metric[m]) if m in by_metric else "" for m in shown)
        way = (escape(share(by_metric["mse"])) if "mse" in by_metric else "",) if shares else ()
        table.add_row(escape(axes or name), str(found.seeds[name]), *figures, *way)
    table.caption = "bold: differs (a higher MSE is more private, a higher SSIM less); " + caption(
        [row for cell in found.common.values() for row in cell.rows]
    )
    return table


def _equal(cell: Comparison) -> bool:
    """Return whether no error differs on any image, and no share of hits in the mean (its interval has a width)."""
    from ..evaluation.scores import SHARES

    return all(
        row.difference.mean == 0 if row.metric in SHARES else (row.difference.lo, row.difference.hi) == (0, 0)
        for row in cell.rows
    )


def _marked(row: Row) -> str:
    figure = escape(difference(row))
    figure = in_two_lines(figure) if out_console.width < WIDE else figure
    return f"[bold]{figure}[/bold]" if row.shown else figure
