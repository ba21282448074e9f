"""The picture of a diagnosis: leakage and error over the epochs, and one against the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..statistics.intervals import Interval
from ..storage.files import atomic_write

BLUE, RED, GREEN = "#4c72b0", "#c44e52", "#55a868"


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw a diagnosis as a PNG of two panels.

    Args:
        record: what `audit.diagnosis.diagnose` returns.
        path: file that is made or replaced.
    """
    from matplotlib.figure import Figure

    figure = Figure((10, 4.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = record["epochs"]
    epochs = [row["epoch"] for row in rows]
    measures = {"leakage_nats": ("estimate logged by the training", BLUE, "o")}
    if "bound" in record["correlation"]:
        measures["bound"] = ("held-out upper bound (mixture)", GREEN, "s")
    second = left.twinx()
    for key, (label, color, mark) in measures.items():
        values = [_number(row[key]) for row in rows]
        left.plot(epochs, values, f"{mark}-", color=color, label=label)
        found = Interval.from_dict(record["correlation"][key])
        right.plot(values, _errors(rows), mark, color=color, label=f"{label}: {found:.2f}")
    second.errorbar(epochs, _errors(rows), yerr=_bars(rows), fmt="^--", color=RED, label="error of the attack")
    for value, error, epoch in zip((row["leakage_nats"] for row in rows), _errors(rows), epochs, strict=True):
        right.annotate(str(epoch), (value, error), (4, 4), textcoords="offset points", fontsize=7, color=BLUE)
    for axes in (second, right):
        axes.axhline(record["baseline_mse"], color="gray", linestyle=":", linewidth=1, label="error of the mean image")
        axes.set_ylim(0, max(record["baseline_mse"], *_errors(rows)) * 1.25)
    left.set(xlabel="epoch of the training", ylabel="leakage, nats per image")
    second.set_ylabel(f"MSE of {next(iter(record['identity']['attack']))}, attacked afterwards")
    right.set(xlabel="leakage, nats per image (numbers: epochs)", ylabel="attack MSE (higher: more private)")
    left.set_title("over the epochs", fontsize=10)
    right.set_title("Spearman's rank correlation with the error, 95 % interval", fontsize=10)
    handles = [*left.get_lines(), *second.get_legend_handles_labels()[0]]
    left.legend(handles=handles, fontsize=7, loc="best")
    right.legend(fontsize=7, loc="best")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def _number(value: float | dict[str, Any]) -> float:
    return value["mean"] if isinstance(value, dict) else value


def _errors(rows: list[dict[str, Any]]) -> list[float]:
    return [row["mse"]["mean"] for row in rows]


def _bars(rows: list[dict[str, Any]]) -> list[list[float]]:
    ends = [(row["mse"]["mean"], *row["mse"]["ci95"]) for row in rows]
    return [[mean - low for mean, low, _ in ends], [high - mean for mean, _, high in ends]]
