"""The published table beside ours, for the page and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..results import published_tables
from ..results.export import Table, percent, plus
from ..results.groups import Arena, Setup, interval
from ..statistics.evidence import combined
from ..statistics.intervals import Interval

TITLES = {"decoder": "decoder MSE × 10⁻⁴", "gan": "GAN MSE × 10⁻⁴"}
FULL = 0.6
"""Relative difference of an error from which on its color is not made stronger; for accuracy, points / 100."""


@dataclass(frozen=True)
class Figure:
    """A published figure and ours; shares for accuracy, squared pixel range for errors."""

    title: str
    published: float
    ours: Interval


@dataclass(frozen=True)
class Line:
    """A published row, without or with CEM, and a configuration of ours that is of it."""

    method: str
    setup: Setup
    figures: tuple[Figure, ...]


def lines(arena: Arena) -> list[Line]:
    """Our configurations that are rows of the published table, in its order; none where nothing matches."""
    found = []
    for setup in arena.setups:
        config = setup.records[0]["config"]
        method = published_tables.method(config)
        if method is None:
            continue
        row = published_tables.TABLES[config["data"]].row(method)
        assert row is not None, f"{method} is a row"
        name = f"{method} + CEM" if setup.cem else method
        if figures := _figures(row, setup):
            found.append(Line(name, setup, figures))
    order = [
        published_tables.NO_DEFENSE,
        *(row.method for table in published_tables.TABLES.values() for row in table.rows),
    ]
    return sorted(found, key=lambda line: (order.index(line.method.removesuffix(" + CEM")), bool(line.setup.cem)))


def _figures(row: published_tables.Row, setup: Setup) -> tuple[Figure, ...]:
    def published(pair: published_tables.Pair) -> float:
        return pair.cem if setup.cem else pair.without

    figures = []
    for attack, protocol in row.mse:
        labels = [published_tables.attack_of(record, attack) for record in setup.records]
        if protocol == setup.records[0]["protocol"] and all(labels):
            ours = [interval(r["attacks"][label]["mse"]) for r, label in zip(setup.records, labels, strict=True)]
            figures.append(Figure(TITLES[attack], published(row.mse[attack, protocol]), combined(ours, 0)))
    if not figures:
        return ()
    return (Figure("accuracy, %", published(row.accuracy), setup.accuracy), *figures)


def for_page(arena: Arena, found: Sequence[Line]) -> dict[str, Any]:
    """The table of one arena as the page's template wants it."""
    published = published_tables.TABLES[found[0].setup.records[0]["config"]["data"]]
    columns = list(dict.fromkeys(figure.title for line in found for figure in line.figures))
    records = [record for line in found for record in line.setup.records]
    differing = published_tables.deviations(records)
    unlike = f"Ours differs: {'; '.join(differing)}. " if differing else ""
    return {
        "title": f"{published.title}, {records[0]['protocol']}",
        "columns": columns,
        "note": (
            f"arXiv 2503.00383. {unlike}Published accuracy is that of the epoch that was best on the test set; the σ "
            "of the rows Noise_… is not published. Differences are ours minus published, relative for errors: colored "
            "where ours is higher (more private, more accurate) or lower."
        ),
        "rows": [
            {
                "method": line.method,
                "setup": f"{line.setup.name} · {_seeds(line.setup)}",
                "cells": [_page_cell(figure) for figure in line.figures],
            }
            for line in found
        ],
    }


def _seeds(setup: Setup) -> str:
    count = len(setup.records)
    return f"{count} seed{'' if count == 1 else 's'}"


def _page_cell(figure: Figure) -> dict[str, Any]:
    published, ours, difference = _texts(figure)
    value, _, bracket = ours.partition(" [")
    change = _change(figure)
    return {
        "published": published,
        "ours": value,
        "interval": f"[{bracket}" if bracket else "",
        "difference": difference,
        "tone": "better" if change > 0 else "worse",
        "strength": round(0.05 + 0.4 * min(1.0, abs(change) / FULL), 3) if change else 0,
    }


def _change(figure: Figure) -> float:
    change = figure.ours.mean - figure.published
    return change if figure.title.startswith("accuracy") else change / figure.published


def _texts(figure: Figure) -> tuple[str, str, str]:
    """Published, ours, difference."""
    change = _change(figure)
    if figure.title.startswith("accuracy"):
        return f"{100 * figure.published:.2f}", percent(figure.ours), plus(f"{100 * change:.1f}")
    scaled = Interval(*(1e4 * value for value in (figure.ours.mean, figure.ours.lo, figure.ours.hi)))
    return f"{1e4 * figure.published:.0f}", f"{scaled:.0f}", f"{plus(f'{100 * change:.0f}')} %"


def table(found: Sequence[tuple[Arena, Line]]) -> Table:
    """The same as a file."""
    rows, shown = [], []
    for arena, line in found:
        for figure in line.figures:
            rows.append(
                {
                    "arena": arena.name,
                    "method": line.method,
                    "setup": line.setup.name,
                    "figure": figure.title.partition(" ×")[0].partition(",")[0],
                    "published": figure.published,
                    "ours": figure.ours.mean,
                    "ours_lo": figure.ours.lo,
                    "ours_hi": figure.ours.hi,
                    "seeds": len(line.setup.records),
                }
            )
        row = {"method": line.method, "ours": line.setup.name, "seeds": str(len(line.setup.records))}
        for figure in line.figures:
            published, ours, _ = _texts(figure)
            row |= {f"{figure.title}: published": published, f"{figure.title}: ours": ours}
        shown.append(row)
    return Table("paper", "The published table (arXiv 2503.00383) beside ours.", rows, shown)
