"""Small inline SVG charts. Colors come from the page (CSS classes ``s0``, ``s1``, ...), so that they follow
light, dark and print; lines also differ in their dashes, so that color is never the only cue."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from markupsafe import Markup, escape

from ..statistics.intervals import Interval

WIDTH, HEIGHT = 310, 220  # of a line chart
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 42
GAUGE_WIDTH = 420


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within [low, high].

    >>> ticks(0.0, 1.0), ticks(0.31, 0.62)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.35, 0.4, 0.45, 0.5, 0.55, 0.6])
    """
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((factor for factor in (1, 2, 5, 10)), key=lambda factor: abs(factor * power - raw))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def line_chart(
    label: str,
    lines: Sequence[tuple[str, Sequence[float]]],
    x_label: str = "epoch",
    show: Callable[[float], str] = "{:.3g}".format,
    reference: tuple[str, float] | None = None,
) -> Markup:
    """Curves over 1, 2, 3, ...; ``reference`` is a named horizontal line. Empty when no line has a value."""
    values = [value for _, points in lines for value in points]
    if not values:
        return Markup("")
    low, high = _range(values + ([reference[1]] if reference else []))
    count = max(len(points) for _, points in lines)

    def x_at(epoch: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (0.5 if count == 1 else (epoch - 1) / (count - 1))

    def y_at(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)

    parts = []
    for value in ticks(low, high):
        y = y_at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(LEFT - 8, y + 4, show(value), "end"))
    for epoch in _epochs(count):
        parts.append(_text(x_at(epoch), HEIGHT - BOTTOM + 18, str(epoch), "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x_label, "middle"))
    if reference:
        y = y_at(reference[1])
        parts.append(f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(WIDTH - RIGHT, y - 6, reference[0], "end"))
    for index, (_, points) in enumerate(lines):
        pairs = [(x_at(epoch), y_at(value)) for epoch, value in enumerate(points, start=1)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)
        parts.append(f'<polyline class="line s{index}" points="{path}"/>')
        parts += [f'<circle class="dot s{index}" cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>' for x, y in pairs[-1:]]
    spoken = "; ".join(f"{name}: {show(p[0])} to {show(p[-1])}" for name, p in lines if p)
    return _svg(WIDTH, HEIGHT, f"{label} per {x_label}. {spoken}", parts)


def gauge(
    label: str,
    rows: Sequence[Interval],
    show: Callable[[float], str] = "{:.3g}".format,
    reference: tuple[str, float] | None = None,
    start: float | None = None,
) -> Markup:
    """Each mean as a dot with its interval as a bar, on one axis; ``start`` fixes where the axis begins."""
    ends = [end for row in rows for end in (row.lo, row.hi, row.mean)] + ([reference[1]] if reference else [])
    low, high = _range(ends, start)
    left, step, top = 14, 30, 30
    axis = top + step * len(rows)

    def x_at(value: float) -> float:
        return left + (GAUGE_WIDTH - left - 22) * (value - low) / (high - low)

    parts = []
    for value in ticks(low, high, 4):
        x = x_at(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{axis}"/>')
        parts.append(_text(x, axis + 17, show(value), "middle"))
    if reference:
        x = x_at(reference[1])
        parts.append(f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="{top - 6}" y2="{axis}"/>')
        parts.append(_text(min(x + 8, GAUGE_WIDTH), top - 12, reference[0], "end"))
    for index, row in enumerate(rows):
        y = top + step * (index + 0.5) - 2
        first, last = x_at(row.lo), x_at(row.hi)
        parts.append(f'<line class="bar s{index}" x1="{first:.1f}" x2="{last:.1f}" y1="{y}" y2="{y}"/>')
        parts.append(f'<circle class="dot s{index}" cx="{x_at(row.mean):.1f}" cy="{y}" r="6"/>')
    return _svg(GAUGE_WIDTH, axis + 24, f"{label}: " + "; ".join(show(row.mean) for row in rows), parts)


def _range(values: Sequence[float], start: float | None = None) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.08 * ((high - low) or abs(high) or 1.0)
    return (low - margin if start is None else min(start, low)), high + margin


def _epochs(count: int) -> list[int]:
    """Epochs to label: the first, and round ones that are not too close to it."""
    whole = [int(value) for value in ticks(0, count, 4) if value == int(value)]
    step = whole[1] - whole[0] if len(whole) > 1 else 1
    return [1] + [epoch for epoch in whole if epoch >= 1 + 0.7 * step]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(width: int, height: int, spoken: str, parts: Sequence[str]) -> Markup:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(spoken)}">'
    return Markup(head + "".join(parts) + "</svg>")
