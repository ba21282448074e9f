"""JSON as Markdown: tables of what a record holds, every number from the record itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LONGEST = 12
"""Numbers of a list that a cell shows."""
WIDEST = 16
"""Columns of a table, which scrolls on narrow pages; what has more becomes tables of names and values."""


def cell(value: Any) -> str:
    r"""Return a value as the text of a table's cell.

    Args:
        value: a number, a text, an interval, or a short list of these.

    >>> cell(0.012345), cell({"mean": 0.5, "ci95": [0.25, 0.75]}), cell([1, 2]), cell(None), cell(-1.5)
    ('0.01235', '0.5 [0.25,\xa00.75]', '1, 2', '–', '−1.5')
    """
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}".replace("-", "−")
        case float():
            return f"{value:.4g}".replace("-", "−") if abs(value) < 1e5 else f"{value:,.0f}".replace("-", "−")
        case {"mean": mean, "ci95": [low, high]}:
            rest = {key: other for key, other in value.items() if key not in ("mean", "ci95")}
            more = f" ({', '.join(f'{name(key)} {cell(other)}' for key, other in rest.items())})" if rest else ""
            return f"{cell(mean)} [{cell(low)},\N{NO-BREAK SPACE}{cell(high)}]{more}"
        case Mapping():
            return ", ".join(f"{name(key)}: {cell(other)}" for key, other in value.items()) or "–"
        case str():
            return escaped(value)
        case Sequence() if len(value) > LONGEST:
            return f"{len(value):,} values (in the file)"
        case Sequence():
            return ", ".join(cell(one) for one in value) or "none"
    raise TypeError(f"a record holds {type(value).__name__}, which JSON does not have")


def escaped(text: str) -> str:
    """Return text as a cell shows it literally.

    Args:
        text: of a record; it may hold any letter.

    >>> escaped("a|b <c> *d*")
    'a&#124;b &lt;c&gt; &#42;d&#42;'
    """
    marks = {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "|": "&#124;",
        "*": "&#42;",
        "`": "&#96;",
        "[": "&#91;",
        "_": "&#95;",
    }
    return " ".join("".join(marks.get(letter, letter) for letter in text).split())


def name(key: str) -> str:
    """Return a key as a heading: words instead of underscores.

    Args:
        key: of a record.
    """
    return escaped(key.replace("_", " "))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        columns: headings, already Markdown.
        rows: cells, already Markdown.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def is_leaf(value: Any) -> bool:
    """Return whether one cell can show a value: a number, a text, an interval, a list of these.

    Args:
        value: of a record.
    """
    if isinstance(value, Mapping):
        return {"mean", "ci95"} <= value.keys()
    if isinstance(value, list):
        return all(is_leaf(one) for one in value) and not any(isinstance(one, list) for one in value[:LONGEST])
    return True


def flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return a nested mapping as one of leaves, whose keys are joined by ": ".

    Args:
        value: of a record.
        before: start of all keys.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a: b': 1, 'c': 2}
    """
    found: dict[str, Any] = {}
    for key, other in value.items():
        if isinstance(other, Mapping) and not is_leaf(other):
            found |= flat(other, f"{before}{key}: ")
        elif isinstance(other, list) and not is_leaf(other):
            named = {
                str(one.get("cell", i)) if isinstance(one, Mapping) else str(i): one for i, one in enumerate(other, 1)
            }
            found |= flat(named, f"{before}{key}: ")
        else:
            found[before + key] = other
    return found


def alike(rows: Mapping[str, Any]) -> list[str]:
    """Return the columns that rows share; none where they are no rows of one table.

    Args:
        rows: name -> row.
    """
    if len(rows) < 2 or not all(isinstance(row, Mapping) and not is_leaf(row) for row in rows.values()):
        return []
    columns = list(dict.fromkeys(key for row in rows.values() for key in flat(row)))
    filled = sum(len(flat(row)) for row in rows.values())
    return columns if len(columns) <= WIDEST and filled >= 0.6 * len(columns) * len(rows) else []


def shown(value: Mapping[str, Any], level: int = 3) -> str:
    """Return what a record holds as tables under headings.

    Args:
        value: of a record.
        level: of the headings.
    """
    plain = {key: other for key, other in value.items() if is_leaf(other)}
    blocks = [table(["what", "value"], [[name(key), cell(other)] for key, other in plain.items()])] if plain else []
    for key, other in value.items():
        if key in plain:
            continue
        if isinstance(other, list):
            other = {
                str(one.get("cell", i)) if isinstance(one, Mapping) else str(i): one for i, one in enumerate(other, 1)
            }
        blocks += [f"{'#' * min(level, 6)} {name(key)}", _inside(other, level)]
    return "\n\n".join(blocks)


def _inside(value: Mapping[str, Any], level: int) -> str:
    if columns := alike(value):
        rows = [[name(key), *(cell(flat(row).get(column, "")) for column in columns)] for key, row in value.items()]
        return table(["of what", *map(name, columns)], rows)
    if level >= 4 or not any(isinstance(other, Mapping) and not is_leaf(other) for other in value.values()):
        return table(["what", "value"], [[name(key), cell(other)] for key, other in flat(value).items()])
    return shown(value, level + 1)
