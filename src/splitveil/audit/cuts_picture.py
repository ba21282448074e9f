"""The picture of an audit of cuts: what a cut costs the device against what it leaves to an attacker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..pictures import inline_figure
from ..storage.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, RED, GRAY = "#4c72b0", "#c44e52", "#8a8a8a"


def worst(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the lower of the attacks' errors at a cut, with its interval; None where none was made.

    Args:
        row: of the record.

    >>> worst({"linear": {"mean": 0.2}, "decoder": {"mean": 0.1}})
    {'mean': 0.1}
    """
    made = [row[name] for name in ("linear", "decoder") if row[name] is not None]
    return min(made, key=lambda error: error["mean"], default=None)


def learned(row: dict[str, Any], mean_image: float | None) -> bool:
    """Return whether the better attack at a cut is shown to beat the mean image, which needs no wire.

    Args:
        row: of the record.
        mean_image: error of always answering the mean image; None: it is not known, and every attack counts.

    >>> row = {"linear": {"mean": 0.2, "ci95": [0.1, 0.3]}, "decoder": None}
    >>> learned(row, 0.31), learned(row, 0.25)
    (True, False)
    """
    error = worst(row)
    return error is not None and (mean_image is None or error["ci95"][1] < mean_image)


def unlearned(record: Mapping[str, Any]) -> list[str]:
    """Return the layers at which attacks were made and none is shown to beat the mean image.

    Args:
        record: of an audit of cuts.
    """
    return [row["layer"] for row in record["rows"] if worst(row) and not learned(row, record["mean_image"])]


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw the cuts of a record into a file.

    Args:
        record: finished.
        path: PNG file that is made.
    """
    with atomic_write(path) as temporary:
        plotted(record).savefig(temporary, format="png")


def plotted(record: dict[str, Any]) -> Figure:
    """Return the picture of the cuts of a record, with the front: the cuts that no other beats.

    Args:
        record: finished.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    rows = [row | {"worst": error} for row in record["rows"] if (error := worst(row))]
    failed = unlearned(record)
    figure = inline_figure(figsize=(7.5, 4.8), dpi=140, layout="constrained")
    axes = figure.subplots()
    drop = record["terms"]["max_drop"]
    axes.set_title(
        f"{record['network']}: where to cut, at most {drop:g} point{'' if drop == 1 else 's'} of accuracy lost"
    )
    axes.axhline(record["mean_image"], color=GRAY, linestyle=":", linewidth=1, label="error of the mean image")
    best = [row for row in rows if row["layer"] in record["front"]]
    best.sort(key=lambda row: row["multiply_adds"])
    axes.plot(
        [row["multiply_adds"] for row in best],
        [row["worst"]["mean"] for row in best],
        color=RED,
        linewidth=1.2,
        drawstyle="steps-post",
        label="front: no other cut beats these" if best else None,
        zorder=1,
    )
    for color, label, some in (
        (RED, None, best),
        (BLUE, "other cuts", [row for row in rows if row["layer"] not in [*record["front"], *failed]]),
        (GRAY, "not comparable: attacks learned nothing", [row for row in rows if row["layer"] in failed]),
    ):
        _points(axes, some, color, label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(EngFormatter())
    x = [row["multiply_adds"] for row in rows] or [1]
    if max(x) / min(x) < 10:  # a single power of ten or none: numbers between them are named too
        axes.xaxis.set_minor_locator(LogLocator(subs=(1.5, 2, 3, 4, 5, 6, 8)))
        axes.xaxis.set_minor_formatter(EngFormatter())
    else:
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("multiply-adds on the device for one image")
    axes.set_ylabel("attacker's mean squared error (higher is better)")
    axes.set_ylim(0, None)
    axes.margins(x=0.1, y=0.12)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, loc="best", framealpha=0.9)
    return figure


def _points(axes: Any, rows: list[dict[str, Any]], color: str, label: str | None) -> None:
    """Draw cuts with their intervals, and the name of the layer beside each."""
    if not rows:
        return
    x, y = [row["multiply_adds"] for row in rows], [row["worst"]["mean"] for row in rows]
    low = [row["worst"]["mean"] - row["worst"]["ci95"][0] for row in rows]
    high = [row["worst"]["ci95"][1] - row["worst"]["mean"] for row in rows]
    axes.errorbar(x, y, yerr=[low, high], fmt="o", color=color, markersize=5, capsize=2, linewidth=1, label=label)
    for row, across, up in zip(rows, x, y, strict=True):
        # To the left and above: the front comes from below and leaves to the right.
        axes.annotate(
            row["layer"],
            (across, up),
            textcoords="offset points",
            xytext=(-5, 5),
            ha="right",
            fontsize=9,
            color=color,
        )
