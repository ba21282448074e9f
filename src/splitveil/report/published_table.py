"""The published table beside ours, as the page's template wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..results.published_tables import TABLES, Figure, Line, deviations
from ..results.tables import figure_texts, figure_title

FULL = 0.6
"""Relative difference of an error from which on its color is not made stronger; for accuracy, points / 100."""


def for_page(found: Sequence[Line]) -> dict[str, Any]:
    """Return the table of one comparison group."""
    records = [record for line in found for record in line.configuration.records]
    differing = deviations(records)
    unlike = f"Ours differs: {'; '.join(differing)}. " if differing else ""
    return {
        "title": f"{TABLES[records[0].data].title}, {records[0].protocol}",
        "columns": list(dict.fromkeys(figure_title(figure) for line in found for figure in line.figures)),
        "note": (
            f"arXiv 2503.00383. {unlike}Published accuracy is that of the epoch that was best on the test set; the σ "
            "of the rows Noise_… is not published. Differences are ours minus published, relative for errors: colored "
            "where ours is higher (more private, more accurate) or lower."
        ),
        "rows": [
            {
                "method": line.method,
                "setup": f"{line.configuration.name} · {_seeds(len(line.configuration.records))}",
                "cells": [_cell(figure) for figure in line.figures],
            }
            for line in found
        ],
    }


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


def _cell(figure: Figure) -> dict[str, Any]:
    published, ours, difference = figure_texts(figure)
    value, _, bracket = ours.partition(" [")
    return {
        "published": published,
        "ours": value,
        "interval": f"[{bracket}" if bracket else "",
        "difference": difference,
        "tone": "better" if figure.change > 0 else "worse",
        "strength": round(0.05 + 0.4 * min(1.0, abs(figure.change) / FULL), 3) if figure.change else 0,
    }
