"""How `splitveil compare` prints rows: in groups of one attack, so that they fit a terminal of 80 letters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from ._shared import LOOK

if TYPE_CHECKING:
    from ..results.comparison_rows import Comparison, Row

TITLES = {
    "accuracy": "accuracy %",
    "retrained_accuracy": "accuracy %, tail retrained",
    "mse": "MSE",
    "psnr": "PSNR dB",
    "ssim": "SSIM",
    "ssim_zero": "SSIM, black border",
    "lpips": "LPIPS",
    "reidentified": "re-identified %",
}
"""Metrics by their names in records, in the order of the columns of a table."""
HEADINGS = ("metric", "A", "B", "B − A [95 %]", "p, Holm", "verdict")


def runs_table(found: Comparison, a: str, b: str) -> RenderableType:
    """Return the rows of a comparison of runs, those of an attack below its name.

    Args:
        found: the comparison.
        a: what A is called.
        b: what B is called.
    """
    groups = [(heading, _lines(list(rows))) for heading, rows in groupby(found.rows, _heading)]
    every = [HEADINGS, *(line for _, lines in groups for line in lines)]
    # The verdict is folded where there is no room; no figure is torn apart.
    widths = [max(map(cell_len, column)) for column in zip(*every, strict=True)][:-1]
    parts: list[RenderableType] = [Text(f"A: {a}   B: {b}", "italic"), _table(widths, [], show_header=True)]
    for heading, lines in groups:
        parts += [Text(heading, "bold"), _table(widths, lines, show_header=False)]
    return Group(*parts, Text(caption(found.rows), "dim italic"))


def _table(widths: Sequence[int], lines: Sequence[Sequence[str]], *, show_header: bool) -> Table:
    columns = [Column(name, width=width) for name, width in zip(HEADINGS, widths, strict=False)]
    table = Table(*columns, Column(HEADINGS[-1], overflow="fold"), show_header=show_header, **LOOK)
    for line in lines:
        table.add_row(*map(escape, line))
    return table


def _heading(row: Row) -> str:
    return f"{row.what}, {row.seeds} {'seeds' if row.seeds > 1 else 'seed'}"


def _lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return the cells of each row, and below an error how far it has come."""
    from ..results.ceiling import SHARE

    found: list[tuple[str, ...]] = []
    for row in rows:
        means = [f"{_scaled(row.metric) * side.mean:.4g}" for side in (row.a, row.b)]
        verdict = row.verdict.partition(" in these ")[0]  # the heading says how many trainings these are
        found.append((TITLES[row.metric], *means, difference(row), _p(row), verdict))
        if way := share(row):
            found.append((SHARE, "0", "", way, "", ""))
    return found


def difference(row: Row) -> str:
    """Return B − A with its interval, with * where it was not taken image by image.

    Args:
        row: of the comparison.
    """
    return str(row.difference.scaled(_scaled(row.metric))) + ("" if row.paired else " *")


def share(row: Row) -> str:
    """Return where the error of B lies on the way from that of A to the class mean, empty for other metrics.

    Args:
        row: of the comparison.
    """
    from ..results.ceiling import text

    return "" if row.metric != "mse" or row.share is None else text(row.share)


def _p(row: Row) -> str:
    return "" if row.p is None else "< 0.001" if row.p < 0.001 else f"{row.p:.3f}"


def _scaled(metric: str) -> int:
    return 100 if TITLES[metric].partition(",")[0].endswith("%") else 1


def caption(rows: Sequence[Row]) -> str:
    """Return what the intervals cover, and what p was corrected for.

    Args:
        rows: of one comparison, or of all that stand in one table.
    """
    from ..results.ceiling import SHARE
    from ..statistics.evidence import LEAST

    few, least = (choice(row.seeds for row in rows) for choice in (max, min))
    over = "over the seeds, and the images within each" if few > 1 else "over the images alone"
    if least == 1 < few:
        over += "; of one seed over the images alone"
    text = f"intervals: {over}; p: corrected for {len(rows)} rows (Holm)"
    if any(row.share for row in rows):
        text += f"; {SHARE}: where B's error lies between A (0 %) and the mean image of the true class (100 %)"
    if least < LEAST:
        text += f"; another training of each may differ as much: a verdict needs {LEAST} seeds of each"
    return text + ("; * as if on different images" if any(not row.paired for row in rows) else "")
