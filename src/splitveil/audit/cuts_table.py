"""The cuts of a record as a table: what `splitveil audit NETWORK --layers` and `splitveil.compare_cuts` print."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .cuts_picture import unlearned

HEADS = ("cut", "Mult-adds", "Weights", "Bytes", "Accuracy", "Linear", "Decoder", "Linkage", "Nats")


def title(record: Mapping[str, Any]) -> str:
    """Return the title of the table.

    Args:
        record: of an audit of cuts.

    >>> title({"network": "Net", "terms": {"max_drop": 1.0}})
    'Net, at most 1 point of accuracy lost'
    """
    drop = record["terms"]["max_drop"]
    return f"{record['network']}, at most {drop:g} point{'' if drop == 1 else 's'} of accuracy lost"


def cells(record: Mapping[str, Any]) -> list[list[str]]:
    """Return a row of `HEADS` for each cut; ``*`` marks the front, ``?`` cuts whose attacks learned nothing.

    Args:
        record: of an audit of cuts.
    """
    failed, rows = unlearned(record), []
    for row in record["rows"]:
        mark = "*" if row["layer"] in record["front"] else "?" if row["layer"] in failed else ""
        linkage, leakage = (row[name] and row[name]["value"] for name in ("linkage", "leakage"))
        rows.append(
            [
                row["layer"] + mark,
                short(row["multiply_adds"]),
                short(row["parameters"]),
                f"{row['bytes']:,}",
                _mean(row["accuracy"], ".1%"),
                *(_mean(row[name], ".4f") for name in ("linear", "decoder")),
                "-" if linkage is None else f"{linkage:.0%}",
                "-" if leakage is None else f"{leakage:,.0f}",
            ]
        )
    return rows


def notes(record: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the table needs to know, a line each.

    Args:
        record: of an audit of cuts.
    """
    sizes = {row["linkage"]["gallery"] for row in record["rows"] if row["linkage"]}
    among = f" among {max(sizes):,} photos" if sizes else ""
    found = []
    if unlearned(record):
        found.append("? no attack is shown to beat the mean image there: its error says nothing")
    if record["front"]:
        found.append("* no other cut costs the device as little and leaves attackers as much error")
    return [
        *found,
        f"linkage: how often the right photo is found{among}",
        "nats: at most so much leaks, an upper bound on held-out images",
        f"error of always answering the mean image: {record['mean_image']:.4f}",
        f"accuracy without noise, on validation images: {record['before']:.1%}",
    ]


def left_out(record: Mapping[str, Any]) -> list[str]:
    """Return what was not measured, with the reason, a line each.

    Args:
        record: of an audit of cuts.
    """
    return [f"{row['layer']}, {what}: {why}" for row in record["rows"] for what, why in row["skipped"].items()]


def text(head: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a table as plain text: the first column to the left, the others to the right.

    Args:
        head: its title.
        rows: of texts, the names of the columns first.

    >>> print(text("net", [("cut", "Bytes"), ("conv1*", "2,048")]))
    net
    cut    Bytes
    conv1* 2,048
    """
    lines = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        " ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (zip(line, widths, strict=True) for line in lines)
    ]
    return "\n".join([head, *(line.rstrip() for line in aligned)])


def short(count: int) -> str:
    """Return a number with three digits and a letter for its thousands.

    >>> short(464), short(39_370_752), short(2_143_488)
    ('464', '39.4 M', '2.14 M')
    """
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {letter}"
    return str(count)


def _mean(value: dict[str, Any] | None, form: str) -> str:
    return "-" if value is None else format(value["mean"], form)
