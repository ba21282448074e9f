"""What the script of a bench's page draws: cells, fronts and gains as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..results.cem_effect import Gain
from ..results.equal_accuracy import Equal
from ..results.export import decimals, percent, plus, points, signed
from ..results.groups import Arena, Setup, interval, strongest
from ..results.records import METRICS, attacker
from ..statistics.intervals import Interval
from .equal_accuracy_table import short
from .plots import dodged, families, gain_rows, noise_lines

CURVE_POINTS, ALL_POINTS = (30, 120), 30_000
"""Learning curves are thinned to between so many epochs, so that all together have about so many."""


def page_data(
    arenas: Sequence[Arena],
    gains: Sequence[Sequence[Gain]],
    equal: Sequence[Sequence[Equal]],
    csv: dict[str, Any],
) -> dict[str, Any]:
    """Everything but the pictures.

    Args:
        gains, equal: one list for each arena.
        csv: the tables that the page offers to save.
    """
    return {
        "arenas": [_arena(arena, found) for arena, found in zip(arenas, gains, strict=True)],
        "cells": [cell for number, arena in enumerate(arenas) for cell in _cells(number, arena)],
        "gains": [
            gain
            for number, (found, same) in enumerate(zip(gains, equal, strict=True))
            for gain in _gains(number, found, same)
        ],
        "csv": csv,
    }


def _arena(arena: Arena, gains: Sequence[Gain]) -> dict[str, Any]:
    return {
        "name": arena.name,
        "families": families(arena),
        "front": [_point(arena.setups[place]) for place in arena.front],
        "noise": [{"name": name, "points": [_point(s) for s in line]} for name, line in noise_lines(arena).items()],
        "gainRows": [name for name, _ in gain_rows(gains)],
    }


def _point(setup: Setup) -> dict[str, Any]:
    seeds = len(setup.records)
    return {
        "id": setup.records[0]["id"],
        "name": setup.name,
        "x": _short(100 * setup.accuracy.mean),
        "y": _short(setup.mse.mean),
        "accuracy": percent(setup.accuracy),
        "mse": str(setup.mse).replace("-", "−"),
        "seeds": f"{seeds} seeds: Student’s intervals" if seeds > 1 else "one seed: intervals over the images",
    }


def _cells(number: int, arena: Arena) -> list[dict[str, Any]]:
    found = arena.records()
    spec = decimals(interval(attacker(record)["mse"]) for record in found)
    least, most = CURVE_POINTS
    length = max(least, min(most, ALL_POINTS // len(found)))
    return [
        {
            **{"arena": number, "front": place in arena.front, "curve": _curve(record["curve"], length)},
            **_cell(setup, record, spec),
        }
        for place, setup in enumerate(arena.setups)
        for record in setup.records
    ]


def _cell(setup: Setup, record: dict[str, Any], spec: str) -> dict[str, Any]:
    best = {name: interval(attacker(record)[name]) for name in METRICS}
    accuracy, timings = interval(record["accuracy"]), record["timings"]
    known = interval(record["retrained_accuracy"]) if record.get("retrained_accuracy") else None
    return {
        "id": record["id"],
        "name": setup.name,
        "family": setup.family,
        "cem": setup.cem,
        "sigma": setup.sigma,
        "seed": record["config"]["seed"],
        "seeds": len(setup.records),
        "accuracy": _triple(points(accuracy)),
        "retrained": _triple(points(known)) if known else None,
        "mse": _triple(best["mse"]),
        "ssim": _short(best["ssim"].mean),
        "psnr": _short(best["psnr"].mean),
        "leakage": record["leakage_nats"],
        "epoch": record["epoch"] + 1,
        "strongest": strongest(record),
        "attacks": {label: str(interval(attack["mse"])) for label, attack in record["attacks"].items()},
        "flags": [f"{label}: {flag}" for label, attack in record["attacks"].items() for flag in attack["flags"]],
        "minutes": (timings["train"] + timings.get("tail", 0.0) + sum(timings["attacks"].values())) / 60,
        "text": {
            "accuracy": percent(accuracy),
            "retrained": percent(known) if known else "–",
            "mse": format(best["mse"], spec),
            "ssim": str(best["ssim"]),
            "psnr": str(best["psnr"]),
            "epoch": f"{record['epoch'] + 1} of {len(record['curve'])}",
        },
    }


def _curve(rows: Sequence[dict[str, Any]], length: int) -> dict[str, list[float]]:
    kept = list(rows[:: max(1, math.ceil(len(rows) / length))])
    if rows and kept[-1] is not rows[-1]:
        kept.append(rows[-1])
    return {
        "epoch": [row["epoch"] + 1 for row in kept],
        "accuracy": [_short(100 * row["accuracy_val"]) for row in kept],
        "loss": [_short(row["loss"]) for row in kept],
    }


def _gains(arena: int, gains: Sequence[Gain], equal: Sequence[Equal]) -> list[dict[str, Any]]:
    rows, at_equal = gain_rows(gains), {id(row.setup): row for row in equal}
    heights, spec = dodged(rows), decimals(gain.mse for gain in gains)
    return [
        {
            "id": gain.setup.records[0]["id"],
            "arena": arena,
            "row": row,
            "height": heights[row][place],
            "stack": gain.without.stack,
            "cem": gain.setup.cem,
            "seeds": len(gain.seeds),
            "before": gain.mse_means[0],
            "share": gain.accuracy_means[0],
            "relative": gain.relative,
            "mse": _triple(gain.mse),
            "accuracy": _triple(points(gain.accuracy)),
            "bySeed": {
                "mse": [_short(part.mean) for part in gain.mse_by_seed],
                "accuracy": [_short(100 * part.mean) for part in gain.accuracy_by_seed],
            },
            "text": {
                "mse": signed(gain.mse, spec),
                "accuracy": signed(points(gain.accuracy), ".1f"),
                "errors": f"{gain.mse_means[0]:.4f} → {gain.mse_means[1]:.4f}",
                "shares": f"{100 * gain.accuracy_means[0]:.1f} → {100 * gain.accuracy_means[1]:.1f}",
                "relative": plus(f"{100 * gain.relative:.0f}"),
                "equal": short(at_equal.get(id(gain.setup))),
                "seeds": f"{len(gain.seeds)} seeds" if len(gain.seeds) > 1 else "one seed",
            },
        }
        for row, (_, found) in enumerate(rows)
        for place, gain in enumerate(found)
    ]


def _triple(value: Interval) -> list[float]:
    return [_short(value.mean), _short(value.lo), _short(value.hi)]


def _short(value: float) -> float:
    return float(f"{value:.5g}")  # more digits than a screen can show
