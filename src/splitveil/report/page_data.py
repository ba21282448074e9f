"""What the script of a bench's page draws: cells, fronts and effects of CEM as plain values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..evaluation.flags import together
from ..results import ceiling
from ..results.ceiling import Share
from ..results.findings import Findings, Part
from ..results.groups import Configuration
from ..results.record_types import Epoch, Record
from ..results.tables import at_equal, decimals, percent, plus, signed
from ..statistics.intervals import Interval
from .plots import effect_rows, heights, noise_lines

CURVE_POINTS, ALL_POINTS = (30, 120), 30_000
"""Learning curves are thinned to between so many epochs, so that all together have about so many."""


def page_data(findings: Findings) -> dict[str, Any]:
    """Return everything but the pictures."""
    parts = list(enumerate(findings.parts))
    return {
        "arenas": [_arena(part) for part in findings.parts],
        "cells": [cell for number, part in parts for cell in _cells(number, part)],
        "gains": [effect for number, part in parts for effect in _effects(number, part)],
    }


def _arena(part: Part) -> dict[str, Any]:
    lines = noise_lines(part.group)
    return {
        "name": part.group.name,
        "families": part.group.families,
        "front": [_point(one) for one in part.group.best],
        "noise": [{"name": name, "points": [_point(one) for one in line]} for name, line in lines.items()],
        "gainRows": [name for name, _ in effect_rows(part.effects)],
    }


def _point(one: Configuration) -> dict[str, Any]:
    seeds = len(one.records)
    return {
        "id": one.records[0].id,
        "name": one.name,
        "x": _short(100 * one.accuracy.mean),
        "y": _short(one.mse.mean),
        "accuracy": percent(one.accuracy),
        "mse": str(one.mse).replace("-", "−"),
        "seeds": f"{seeds} seeds: Student’s intervals" if seeds > 1 else "one seed: intervals over the images",
    }


def _cells(number: int, part: Part) -> list[dict[str, Any]]:
    found = part.group.records
    spec = decimals(record.attacker.mse for record in found)
    least, most = CURVE_POINTS
    length = max(least, min(most, ALL_POINTS // len(found)))
    return [
        {"arena": number, "front": place in part.group.front, "curve": _curve(record.curve, length)}
        | _cell(one, record, spec, part.shares.get(record.id))
        for place, one in enumerate(part.group.configurations)
        for record in one.records
    ]


def _cell(one: Configuration, record: Record, spec: str, share: Share | None) -> dict[str, Any]:
    best, known, way = record.attacker, record.retrained_accuracy, share.value if share else None
    return {
        **{"id": record.id, "name": one.name, "family": one.family, "cem": one.cem, "sigma": one.sigma},
        **{"seed": record.seed, "seeds": len(one.records), "epoch": record.epoch + 1},
        "accuracy": _triple(record.accuracy.scaled(100)),
        "retrained": _triple(known.scaled(100)) if known else None,
        "mse": _triple(best.mse),
        "share": _short(100 * way.mean) if way else None,
        "ssim": _short(best.ssim.mean),
        "psnr": _short(best.psnr.mean),
        "leakage": record.leakage_nats,
        "strongest": record.strongest,
        "attacks": {label: str(attack.mse) for label, attack in record.attacks.items()},
        "flags": together({label: attack.flags for label, attack in record.attacks.items()}),
        "minutes": record.timings.work / 60,
        "text": {
            "accuracy": percent(record.accuracy),
            "retrained": percent(known) if known else "–",
            "share": ceiling.text(way),
            **{"mse": format(best.mse, spec), "ssim": str(best.ssim), "psnr": str(best.psnr)},
            "epoch": f"{record.epoch + 1} of {len(record.curve)}",
        },
    }


def _curve(rows: Sequence[Epoch], length: int) -> dict[str, list[float]]:
    kept = list(rows[:: max(1, math.ceil(len(rows) / length))])
    if rows and kept[-1] is not rows[-1]:
        kept.append(rows[-1])
    return {
        "epoch": [row.epoch + 1 for row in kept],
        "accuracy": [_short(100 * row.accuracy_val) for row in kept],
        "loss": [_short(row.loss) for row in kept],
    }


def _effects(arena: int, part: Part) -> list[dict[str, Any]]:
    same, spec = part.at_equal, decimals(effect.mse for effect in part.effects)
    return [
        {
            "id": effect.configuration.records[0].id,
            **{"arena": arena, "row": row, "height": height},
            **{"stack": effect.without.stack, "cem": effect.configuration.cem, "seeds": len(effect.seeds)},
            **{"before": effect.mse_means[0], "share": effect.accuracy_means[0], "relative": effect.relative},
            **{"mse": _triple(effect.mse), "accuracy": _triple(effect.accuracy.scaled(100))},
            "bySeed": {
                "mse": [_short(seed.mean) for seed in effect.mse_by_seed],
                "accuracy": [_short(100 * seed.mean) for seed in effect.accuracy_by_seed],
            },
            "text": {
                "mse": signed(effect.mse, spec),
                "accuracy": signed(effect.accuracy.scaled(100), ".1f"),
                "share": ceiling.way(
                    *(ceiling.of_configuration(c, part.shares) for c in (effect.without, effect.configuration))
                ),
                "errors": " → ".join(f"{mean:.4f}" for mean in effect.mse_means),
                "shares": " → ".join(f"{100 * share:.1f}" for share in effect.accuracy_means),
                "relative": plus(f"{100 * effect.relative:.0f}"),
                "equal": at_equal(same.get(id(effect.configuration))),
                "seeds": f"{len(effect.seeds)} seeds" if len(effect.seeds) > 1 else "one seed",
            },
        }
        for row, (_, found) in enumerate(effect_rows(part.effects))
        for effect, height in zip(found, heights(row, len(found)), strict=True)
    ]


def _triple(value: Interval) -> list[float]:
    return [_short(value.mean), _short(value.lo), _short(value.hi)]


def _short(value: float) -> float:
    return float(f"{value:.5g}")  # more digits than a screen can show
