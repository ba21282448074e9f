"""The report's plots as PNG and SVG, for papers and for printing the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..results.cem_effect import Gain
from ..results.groups import NOISE, Arena, Setup, noise_alone
from ..results.records import attacker
from ..storage.files import atomic_write

COLORS = ("#8a6d3b", "#0b6e75", "#c2577f", "#5b5ea6", "#3f7d3a", "#c07a12", "#9a4d8f", "#2f6fb5", "#7a8288", "#2f2f2f")
"""Of the families of defenses in light; the page's style sheet holds the same, and others for dark."""
GREY, INK = "#5d666f", "#1c2024"
STEMS = ("tradeoff", "cem_gain", "learning_curves", "leakage")
FORMATS = ("png", "svg")
DENSE = 200
"""From so many cells on, points and intervals are drawn fainter."""
ROWS = 24
"""Comparisons that have a row each in the plot of gains; of more, those of a stack or a family share one."""


def draw(folder: Path, arenas: Sequence[Arena], gains: Sequence[Sequence[Gain]]) -> dict[str, dict[str, Path]]:
    """Draw everything that there is to draw; arena -> stem -> PNG. Plots of an earlier report are removed.

    Args:
        folder: where the files go; those of a second arena carry its name.
        gains: one list for each arena.
    """
    for stem in STEMS:
        for old in folder.glob(f"{stem}*"):
            if re.fullmatch(rf"{stem}(-[\w-]+)?\.(png|svg)", old.name):
                old.unlink()
    made: dict[str, dict[str, Path]] = {}
    for arena, found in zip(arenas, gains, strict=True):
        colors = family_colors(arena)
        plots: dict[str, Callable[[], Any]] = {"tradeoff": lambda a=arena, c=colors: _tradeoff(a, c)}
        if found:
            plots["cem_gain"] = lambda f=found: _gains(f)
        plots["learning_curves"] = lambda a=arena, c=colors: _curves(a, c)
        if any(record["leakage_nats"] is not None for record in arena.records()):
            plots["leakage"] = lambda a=arena: _leakage(a)
        suffix = "" if len(arenas) == 1 else "-" + (re.sub(r"\W+", "-", arena.name).strip("-") or "images")
        made[arena.name] = {stem: _save(plot(), folder / f"{stem}{suffix}") for stem, plot in plots.items()}
    return made


def family_colors(arena: Arena) -> dict[str, str]:
    """A color for each family, noise first."""
    return {name: COLORS[place % len(COLORS)] for place, name in enumerate(families(arena))}


def families(arena: Arena) -> list[str]:
    """The families of an arena, noise first."""
    names = dict.fromkeys(setup.family for setup in arena.setups)
    return sorted(names, key=lambda name: (name != NOISE, name))


def gain_rows(gains: Sequence[Gain]) -> list[tuple[str, list[Gain]]]:
    """The rows of the plot of gains: one each or, where these are too many, by stack or by family of defenses."""
    alike = len({gain.setup.cem for gain in gains}) == 1
    own = (lambda gain: gain.without.stack) if alike else (lambda gain: gain.setup.name)
    for name in (own, lambda gain: gain.without.stack, lambda gain: gain.setup.family):
        rows: dict[str, list[Gain]] = {}
        for gain in gains:
            rows.setdefault(name(gain), []).append(gain)
        if len(rows) <= ROWS:
            break
    return list(rows.items())


def dodged(rows: Sequence[tuple[str, Sequence[Gain]]]) -> list[list[float]]:
    """Heights of the points of each row, around the row's number, so that they do not cover each other.

    >>> dodged([("a", [None]), ("b", [None, None])])
    [[0.0], [0.8, 1.2]]
    """
    return [[_height(row, place, len(found)) for place in range(len(found))] for row, (_, found) in enumerate(rows)]


def _height(row: int, place: int, count: int) -> float:
    step = min(0.4, 0.8 / count)
    return round(row + step * (place - (count - 1) / 2), 6)


def _save(figure: Any, stem: Path) -> Path:
    from matplotlib import rc_context

    for kind in FORMATS:
        # No date and no random names in the file: the same records give the same plot.
        salt, date = rc_context({"svg.hashsalt": stem.name}), {"Date": None} if kind == "svg" else None
        with salt, atomic_write(stem.with_name(f"{stem.name}.{kind}")) as temporary:
            figure.savefig(temporary, dpi=150, format=kind, metadata=date)
    return stem.with_name(f"{stem.name}.png")


def _tradeoff(arena: Arena, colors: dict[str, str]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axis = figure.subplots()
    faint = 0.25 if len(arena.records()) > DENSE else 0.7
    for family in colors:
        for with_cem in (False, True):
            records = [r for s in arena.setups if s.family == family and bool(s.cem) == with_cem for r in s.records]
            _points(axis, records, _color(colors, family, with_cem), with_cem, faint)
    _noise_line(axis, arena)
    best = [arena.setups[place] for place in arena.front]
    axis.plot(*_means(best), "-", color=INK, lw=1.4, zorder=3, label="Pareto front (means over seeds)")
    axis.plot(*_means(best), "s", ms=9, mfc="none", color=INK, mew=1, zorder=3)
    _legend(figure, axis, colors, any(setup.cem for setup in arena.setups))
    axis.set(xlabel="test accuracy, %", ylabel="MSE of the best attacker (higher: more private)", title=arena.name)
    axis.grid(alpha=0.25)
    return figure


def _points(axis: Any, records: Sequence[dict[str, Any]], color: str, filled: bool, faint: float) -> None:
    if not records:
        return
    x, y = ([value(r)["mean"] for r in records] for value in (_accuracy, _error))
    x_error, y_error = (
        [[abs(value(r)["ci95"][end] - value(r)["mean"]) for r in records] for end in (0, 1)]
        for value in (_accuracy, _error)
    )
    axis.errorbar(x, y, xerr=x_error, yerr=y_error, fmt="none", ecolor=color, elinewidth=0.8, alpha=faint * 0.7)
    marker = {"marker": "D" if filled else "o", "s": 26, "facecolors": color if filled else "white"}
    axis.scatter(x, y, **marker, edgecolors=color, linewidths=1.1, alpha=min(1.0, faint + 0.3), zorder=2)


def _color(colors: dict[str, str], family: str, with_cem: bool) -> str:
    """Of a family; where there is one only, color is free to tell CEM from the rest."""
    return COLORS[1] if with_cem and len(colors) == 1 else colors[family]


def _noise_line(axis: Any, arena: Arena) -> None:
    """What more noise alone buys: the yardstick."""
    for name, line in noise_lines(arena).items():
        axis.plot(*_means(line), ":", color=COLORS[0], lw=1.6, label=name)


def noise_lines(arena: Arena) -> dict[str, list[Setup]]:
    """Noise alone by its strength, where there are several: a line for each combination of all other settings."""
    found = noise_alone(arena)
    several = sum(len(line) > 1 for line in found.values()) > 1
    return {
        f"more noise, no CEM · {others}" if several else "more noise, no CEM": list(line.values())
        for others, line in found.items()
        if len(line) > 1
    }


def _means(setups: Sequence[Setup]) -> tuple[list[float], list[float]]:
    return [100 * setup.accuracy.mean for setup in setups], [setup.mse.mean for setup in setups]


def _accuracy(record: dict[str, Any]) -> dict[str, Any]:
    value = record["accuracy"]
    return {"mean": 100 * value["mean"], "ci95": [100 * end for end in value["ci95"]]}


def _error(record: dict[str, Any]) -> dict[str, Any]:
    return attacker(record)["mse"]


def _legend(figure: Any, axis: Any, colors: dict[str, str], cem: bool) -> None:
    from matplotlib.lines import Line2D

    def dot(color: str, name: str, marker: str = "o", face: str | None = None) -> Any:
        return Line2D([], [], ls="", marker=marker, color=color, mfc=face or color, label=name)

    handles = [dot(color, name) for name, color in colors.items()]
    if cem:
        plain, defended = (COLORS[0], COLORS[1]) if len(colors) == 1 else (GREY, GREY)
        handles = handles[: len(handles) if len(colors) > 1 else 0]
        handles += [dot(plain, "without CEM", face="white"), dot(defended, "with CEM", "D")]
    figure.legend(
        handles=[*handles, *axis.get_legend_handles_labels()[0]], loc="outside lower center", ncols=4, frameon=False
    )


def _gains(gains: Sequence[Gain]) -> Any:
    from matplotlib.figure import Figure

    rows = gain_rows(gains)
    heights = dodged(rows)
    tall = min(60.0, 1.6 + sum(max(0.42, 0.13 * len(found)) for _, found in rows))
    figure = Figure(figsize=(9.6, tall), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, part, factor, title in (
        (axes[0], "mse", 1, "change of the best attacker’s MSE"),
        (axes[1], "accuracy", 100, "change of accuracy, points"),
    ):
        values = [getattr(gain, part) for _, found in rows for gain in found]
        at = [height for places in heights for height in places]
        faces = [COLORS[1] if value.lo > 0 or value.hi < 0 else "white" for value in values]
        ends = [[factor * end for end in pair] for pair in zip(*((v.lo, v.hi) for v in values), strict=True)]
        axis.hlines(at, *ends, color=COLORS[1], lw=1.6, alpha=0.5)
        axis.scatter([factor * v.mean for v in values], at, s=26, facecolors=faces, edgecolors=COLORS[1], zorder=2)
        axis.axvline(0, color=GREY, lw=1)
        axis.set(xlabel=title)
        axis.grid(alpha=0.25, axis="x")
    axes[0].set_yticks(range(len(rows)), [name for name, _ in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle("with CEM minus without, 95 % intervals; filled: the interval excludes zero", fontsize=10)
    return figure


def _curves(arena: Arena, colors: dict[str, str]) -> Any:
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    axes = figure.subplots(1, 2)
    faint = 0.15 if len(arena.records()) > DENSE else 0.6
    for axis, key, factor, title in (
        (axes[0], "accuracy_val", 100, "validation accuracy, %"),
        (axes[1], "loss", 1, "loss"),
    ):
        for setup in arena.setups:
            lines = [[(row["epoch"] + 1, factor * row[key]) for row in r["curve"]] for r in setup.records]
            style = "solid" if setup.cem else "dashed"
            axis.add_collection(
                LineCollection(
                    lines, colors=_color(colors, setup.family, bool(setup.cem)), alpha=faint, linestyles=style
                )
            )
        axis.autoscale()
        axis.set(xlabel="epoch", ylabel=title)
        axis.grid(alpha=0.25)
    if len(colors) > 1:
        _legend(figure, axes[0], colors, cem=False)
    figure.suptitle("dashed: without CEM; solid: with CEM", fontsize=10)
    return figure


def _leakage(arena: Arena) -> Any:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.8), layout="constrained")
    axis = figure.subplots()
    sigmas = sorted({setup.sigma for setup in arena.setups})
    for place, sigma in enumerate(sigmas):
        color = colormaps["viridis"](0.9 * place / max(1, len(sigmas) - 1))
        for cem in (False, True):
            setups = [setup for setup in arena.setups if setup.sigma == sigma and bool(setup.cem) == cem]
            records = [r for setup in setups for r in setup.records if r["leakage_nats"] is not None]
            if records:
                points = [[r["leakage_nats"] for r in records], [_error(r)["mean"] for r in records]]
                marker, face = ("D", color) if cem else ("o", "white")
                label = f"σ = {sigma:g}{', CEM' if cem else ''}"
                axis.plot(*points, ls="", marker=marker, mfc=face, ms=5, color=color, alpha=0.7, label=label)
    axis.set(xlabel="leakage estimate, nats per image", ylabel="MSE of the best attacker", title=arena.name)
    axis.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=6, frameon=False)
    return figure
