"""The trade-off and the effects of CEM as PNG and SVG, for papers and for printing the page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..results.cem_effect import CemEffect
from ..results.findings import Part
from ..results.groups import ComparisonGroup, Configuration
from ..results.record_types import Record
from ..statistics.intervals import Interval
from ..storage.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = ("#8a6d3b", "#0b6e75", "#c2577f", "#5b5ea6", "#3f7d3a", "#c07a12", "#9a4d8f", "#2f6fb5", "#7a8288", "#2f2f2f")
"""Of the families of defenses in light; the page's style sheet holds the same, and others for dark."""
GRAY, INK = "#5d666f", "#1c2024"
STEMS = ("tradeoff", "cem_gain")
FORMER = ("learning_curves", "leakage")
"""Plots of earlier versions, which only the page draws now."""
FORMATS = ("png", "svg")
DENSE = 200
"""From so many cells on, points and intervals are drawn fainter."""
ROWS = 24
"""Comparisons that have a row each in the plot of effects; of more, those of a stack or a family share one."""


def draw(folder: Path, parts: Sequence[Part]) -> list[dict[str, Path]]:
    """Draw what there is to draw, and return for each part stem -> PNG. Plots of an earlier report are removed.

    Args:
        folder: where the files go; those of several parts carry the names of their groups.
        parts: what is drawn, one for each group.
    """
    made = []
    for part in parts:
        suffix = "" if len(parts) == 1 else "-" + (re.sub(r"\W+", "-", part.group.name).strip("-") or "images")
        drawn = {"tradeoff": _save(_tradeoff(part.group), folder / f"tradeoff{suffix}")}
        if part.effects:
            drawn["cem_gain"] = _save(_effects(part.effects), folder / f"cem_gain{suffix}")
        made.append(drawn)
    new = {path.with_suffix("") for drawn in made for path in drawn.values()}
    for stem in (*STEMS, *FORMER):
        for old in folder.glob(f"{stem}*"):
            if re.fullmatch(rf"{stem}(-[\w-]+)?\.(png|svg)", old.name) and old.with_suffix("") not in new:
                old.unlink(missing_ok=True)  # another report on this folder may be doing the same
    return made


def effect_rows(effects: Sequence[CemEffect]) -> list[tuple[str, list[CemEffect]]]:
    """Return the rows of the plot of effects: one each, or by stack or family of defenses where these are too many."""
    alike = len({effect.configuration.cem for effect in effects}) == 1
    own = (lambda effect: effect.without.stack) if alike else (lambda effect: effect.configuration.name)
    for name in (own, lambda effect: effect.without.stack, lambda effect: effect.configuration.family):
        rows: dict[str, list[CemEffect]] = {}
        for effect in effects:
            rows.setdefault(name(effect), []).append(effect)
        if len(rows) <= ROWS:
            break
    return list(rows.items())


def heights(row: int, count: int) -> list[float]:
    """Return the heights of the ``count`` points of a row, around its number, so that they do not cover each other.

    >>> heights(0, 1), heights(1, 2)
    ([0.0], [0.8, 1.2])
    """
    step = min(0.4, 0.8 / count)
    return [round(row + step * (place - (count - 1) / 2), 6) for place in range(count)]


def noise_lines(group: ComparisonGroup) -> dict[str, list[Configuration]]:
    """Noise alone by its strength, where there are several: a line for each combination of all other settings."""
    found = {others: line for others, line in group.noise_alone().items() if len(line) > 1}
    title = "more noise, no CEM"
    return {f"{title} · {others}" if len(found) > 1 else title: line for others, line in found.items()}


def _save(figure: Figure, stem: Path) -> Path:
    from matplotlib import rc_context

    for kind in FORMATS:
        # No date and no random names in the file: the same records give the same plot.
        salt, date = rc_context({"svg.hashsalt": stem.name}), {"Date": None} if kind == "svg" else None
        with salt, atomic_write(stem.with_name(f"{stem.name}.{kind}")) as temporary:
            figure.savefig(temporary, dpi=150, format=kind, metadata=date)
    return stem.with_name(f"{stem.name}.png")


def _tradeoff(group: ComparisonGroup) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axis, families = figure.subplots(), group.families
    # Where there is one family only, color is free to tell CEM from the rest.
    colors = {
        (family, cem): COLORS[int(cem) if len(families) == 1 else place % len(COLORS)]
        for place, family in enumerate(families)
        for cem in (False, True)
    }
    for (family, cem), color in colors.items():
        found = [one for one in group.configurations if one.family == family and bool(one.cem) == cem]
        _points(
            axis, [r for one in found for r in one.records], color, cem, 0.25 if len(group.records) > DENSE else 0.7
        )
    for name, line in noise_lines(group).items():  # what more noise alone buys: the yardstick
        axis.plot(*_means(line), ":", color=COLORS[0], lw=1.6, label=name)
    axis.plot(*_means(group.best), "-", color=INK, lw=1.4, zorder=3, label="Pareto front (means over seeds)")
    axis.plot(*_means(group.best), "s", ms=9, mfc="none", color=INK, mew=1, zorder=3)
    _legend(figure, axis, colors, any(one.cem for one in group.configurations))
    axis.set(xlabel="test accuracy, %", ylabel="MSE of the best attacker (higher: more private)", title=group.name)
    axis.grid(alpha=0.25)
    return figure


def _points(axis: Axes, records: Sequence[Record], color: str, filled: bool, faint: float) -> None:
    if not records:
        return
    pairs = [(record.accuracy.scaled(100), record.attacker.mse) for record in records]
    x, y = ([value.mean for value in values] for values in zip(*pairs, strict=True))
    x_error, y_error = (_bars(values) for values in zip(*pairs, strict=True))
    axis.errorbar(x, y, xerr=x_error, yerr=y_error, fmt="none", ecolor=color, elinewidth=0.8, alpha=faint * 0.7)
    marker: dict[str, Any] = {"marker": "D" if filled else "o", "s": 26, "facecolors": color if filled else "white"}
    axis.scatter(x, y, **marker, edgecolors=color, linewidths=1.1, alpha=min(1.0, faint + 0.3), zorder=2)


def _bars(values: Sequence[Interval]) -> list[list[float]]:
    return [[abs(value.mean - value.lo) for value in values], [abs(value.hi - value.mean) for value in values]]


def _means(found: Sequence[Configuration]) -> tuple[list[float], list[float]]:
    return [100 * one.accuracy.mean for one in found], [one.mse.mean for one in found]


def _legend(figure: Figure, axis: Axes, colors: dict[tuple[str, bool], str], cem: bool) -> None:
    from matplotlib.lines import Line2D

    def dot(color: str, name: str, marker: str = "o", face: str | None = None) -> Any:
        return Line2D([], [], ls="", marker=marker, color=color, mfc=face or color, label=name)

    families = {family: color for (family, with_cem), color in colors.items() if not with_cem}
    alone = len(families) == 1
    handles = [] if alone and cem else [dot(color, name) for name, color in families.items()]
    if cem:
        plain, defended = (COLORS[0], COLORS[1]) if alone else (GRAY, GRAY)
        handles += [dot(plain, "without CEM", face="white"), dot(defended, "with CEM", "D")]
    lines = axis.get_legend_handles_labels()[0]
    figure.legend(handles=[*handles, *lines], loc="outside lower center", ncols=4, frameon=False)


def _effects(effects: Sequence[CemEffect]) -> Figure:
    from matplotlib.figure import Figure

    rows = effect_rows(effects)
    tall = min(60.0, 1.6 + sum(max(0.42, 0.13 * len(found)) for _, found in rows))
    figure = Figure(figsize=(9.6, tall), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    at = [height for row, (_, found) in enumerate(rows) for height in heights(row, len(found))]
    ordered = [effect for _, found in rows for effect in found]
    mse, accuracy = [effect.mse for effect in ordered], [effect.accuracy.scaled(100) for effect in ordered]
    titles = ("change of the best attacker’s MSE", "change of accuracy, points")
    for axis, values, title in zip(axes, (mse, accuracy), titles, strict=True):
        faces = [COLORS[1] if value.lo > 0 or value.hi < 0 else "white" for value in values]
        axis.hlines(at, [v.lo for v in values], [v.hi for v in values], color=COLORS[1], lw=1.6, alpha=0.5)
        axis.scatter([v.mean for v in values], at, s=26, facecolors=faces, edgecolors=COLORS[1], zorder=2)
        axis.axvline(0, color=GRAY, lw=1)
        axis.set(xlabel=title)
        axis.locator_params(axis="x", nbins=4)  # names of stacks may leave little room
        axis.grid(alpha=0.25, axis="x")
    axes[0].set_yticks(range(len(rows)), [name for name, _ in rows])
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle("with CEM minus without, 95 % intervals; filled: the interval excludes zero", fontsize=10)
    return figure
