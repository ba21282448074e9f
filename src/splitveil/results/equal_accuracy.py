"""Each defense of a bench against noise alone at the same accuracy, where the bench has a curve of noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.tail import ANSWERS
from ..statistics.evidence import LEAST, LEVEL, holm, p_value
from ..statistics.intervals import Interval
from ..statistics.noise_curve import LEAST_POINTS, at_equal_accuracy
from .groups import NOISE, Arena, Setup, noise_alone
from .records import answers, errors

RETRAINED, TRAINED = "tail retrained", "as trained"
OUTSIDE = "outside the curve"


@dataclass(frozen=True)
class Equal:
    """A defense and noise alone where it is as accurate.

    Attributes:
        seeds: those that the defense and every strength of noise have, on the same images.
        measured: which accuracy is meant, `RETRAINED` where all have it, else `TRAINED`.
        accuracy, mse: of the defense, over these seeds.
        reference: MSE of noise alone at that accuracy.
        difference: log MSE of the defense minus that of noise alone at that accuracy.
        raw: the same against noise alone of the defense's own σ, which may be more or less accurate; None where the
            bench has no such noise.
        why: why there is no difference; empty where there is one.
        beyond: part of the resamples that were outside the curve.
        p: of the difference, corrected for the other rows of the table (Holm).
    """

    setup: Setup
    seeds: tuple[int, ...]
    measured: str = ""
    accuracy: float | None = None
    mse: float | None = None
    reference: float | None = None
    difference: Interval | None = None
    raw: Interval | None = None
    why: str = ""
    beyond: float = 0.0
    p: float | None = None

    @property
    def verdict(self) -> str:
        """In words; a cause only where at least `evidence.LEAST` seeds say so."""
        if self.difference is None or self.p is None:
            return self.why
        if self.p >= LEVEL:
            return "no difference shown"
        more = "more" if self.difference.mean > 0 else "less"
        return f"{more} private" if len(self.seeds) >= LEAST else "differs in these trainings"


def equals(folder: str | Path, arena: Arena) -> list[Equal]:
    """Every defense of the arena for which there is noise alone at `noise_curve.LEAST_POINTS` strengths or more.

    Raises:
        UserError: errors or answers per image are missing or damaged.
    """
    found: list[Equal] = []
    for others, line in noise_alone(arena).items():
        if len(line) < LEAST_POINTS:
            continue
        defended = [s for s in arena.setups if _settings(s) == others and (s.cem or s.family not in (NOISE, "none"))]
        groups: dict[tuple[int, ...], list[Setup]] = defaultdict(list)
        for setup in defended:
            groups[_common([*line.values(), setup])].append(setup)
        for seeds, setups in groups.items():
            found += _group(Path(folder), line, setups, seeds)
    shown = iter(holm([p_value(row.difference, len(row.seeds)) for row in found if row.difference]))
    rows = [Equal(**{**vars(row), "p": next(shown)}) if row.difference else row for row in found]
    return sorted(rows, key=lambda row: arena.setups.index(row.setup))


def _settings(setup: Setup) -> str:
    return setup.stack.partition(" · ")[2]


def _common(setups: Sequence[Setup]) -> tuple[int, ...]:
    """Seeds that all setups have, each with the same attacked images and the same test images."""
    by_seed = [_by_seed(setup) for setup in setups]
    return tuple(
        seed
        for seed in sorted(set.intersection(*(set(found) for found in by_seed)))
        if all(len({found[seed].get(key) for found in by_seed}) == 1 for key in ("images_digest", "test_digest"))
        and by_seed[0][seed]["images_digest"]
    )


def _by_seed(setup: Setup) -> dict[int, dict[str, Any]]:
    return {record["config"]["seed"]: record for record in setup.records}


def _group(folder: Path, line: dict[float, Setup], setups: list[Setup], seeds: tuple[int, ...]) -> list[Equal]:
    if not seeds:
        why = "no seed that the defense and all strengths of noise have on the same images"
        return [Equal(setup, seeds, why=why) for setup in setups]
    every = [_by_seed(setup) for setup in (*line.values(), *setups)]
    records = [[found[seed] for found in every] for seed in seeds]
    cells = [[folder / "cells" / record["id"] for record in row] for row in records]
    kept = [name for name in (ANSWERS, "test.csv") if all((cell / name).is_file() for row in cells for cell in row)]
    if not kept:
        return [Equal(setup, seeds, why="not all cells kept their answers to the test images") for setup in setups]
    mse = [np.stack([errors(*pair) for pair in zip(*rows, strict=True)]) for rows in zip(cells, records, strict=True)]
    hits = [np.stack([answers(cell, kept[0]) for cell in row]).astype(np.float32) for row in cells]
    shared = [len({row[0].get(key) for row in records}) == 1 for key in ("images_digest", "test_digest")]
    found = at_equal_accuracy(list(line), mse, hits, shared=(shared[0], shared[1]))
    means = np.mean([values.mean(1) for values in mse], 0)[len(line) :]
    return [
        Equal(
            setup,
            seeds,
            RETRAINED if kept[0] == ANSWERS else TRAINED,
            one.accuracy,
            float(mean),
            one.reference,
            one.difference,
            one.raw.get(setup.sigma),
            "" if one.difference else OUTSIDE,
            one.beyond,
        )
        for setup, one, mean in zip(setups, found, means, strict=True)
    ]
