"""`splitveil report`."""

from __future__ import annotations

from ._shared import MaybePlace, Place, app, say


@app.command
def report(folder: Place, *, out: MaybePlace = None) -> None:
    """Make one page of all cells of a bench: DIR/report.html, with DIR/plots and DIR/tables.

    Args:
        folder: Folder that `splitveil bench` made; it may still be at work in it.
        out: Write everything into this folder instead.
    """
    from ..report.bench import build

    page = build(folder, out, note=lambda line: say(f"note: {line}"))
    say(f"open {page.absolute()} in a browser")
