"""Each defense of a bench against noise alone at the same accuracy, where the bench has a curve of noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..evaluation.tail import ANSWERS
from ..statistics.evidence import LEAST, LEVEL, holm, p_value
from ..statistics.intervals import Interval
from ..statistics.noise_curve import LEAST_POINTS, at_equal_accuracy
from ..storage import reading
from .attack_files import AttackFiles
from .groups import ComparisonGroup, Configuration
from .record_types import NOISE, Record

RETRAINED, TRAINED = "tail retrained", "as trained"
OUTSIDE, AT_END = "outside the curve", "the accuracy is not surely below that of the weakest noise"


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

    configuration: Configuration
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


def equals(folder: str | Path, group: ComparisonGroup, files: AttackFiles | None = None) -> list[Equal]:
    """Compare every defense for which the group has noise alone at `noise_curve.LEAST_POINTS` strengths or more.

    Args:
        folder: the bench folder, which holds the errors and the answers per image.
        group: the configurations that may be compared.
        files: of the attacks in the folder, where some were read already.

    Raises:
        UserError: errors per image are missing or damaged, or of other attacks than the record.
    """
    files = files or AttackFiles(folder)
    found: list[Equal] = []
    for others, line in group.noise_alone().items():
        if len(line) < LEAST_POINTS:
            continue
        defended = [
            s for s in group.configurations if s.others == others and (s.cem or s.family not in (NOISE, "none"))
        ]
        by_seeds: dict[tuple[int, ...], list[Configuration]] = defaultdict(list)
        for one in defended:
            by_seeds[_common([*line, one])].append(one)
        for seeds, together in by_seeds.items():
            found += _compared(files, line, together, seeds)
    shown = iter(holm([p_value(row.difference, len(row.seeds)) for row in found if row.difference]))
    rows = [Equal(**{**vars(row), "p": next(shown)}) if row.difference else row for row in found]
    places = {id(one): place for place, one in enumerate(group.configurations)}
    return sorted(rows, key=lambda row: places[id(row.configuration)])


def _common(configurations: Sequence[Configuration]) -> tuple[int, ...]:
    """Seeds that all configurations have, each with the same attacked images and the same test images."""
    by_seed = [one.by_seed for one in configurations]
    return tuple(
        seed
        for seed in sorted(set.intersection(*(set(found) for found in by_seed)))
        if len({(found[seed].images_digest, found[seed].test_digest) for found in by_seed}) == 1
        and by_seed[0][seed].images_digest
    )


def _compared(
    files: AttackFiles, line: list[Configuration], defended: list[Configuration], seeds: tuple[int, ...]
) -> list[Equal]:
    if not seeds:
        why = "no seed that the defense and all strengths of noise have on the same images"
        return [Equal(one, seeds, why=why) for one in defended]
    records = [[one.by_seed[seed] for one in (*line, *defended)] for seed in seeds]
    if not all(files.kept(record) for row in records for record in row):
        return [Equal(one, seeds, why="not all cells kept their errors per image") for one in defended]
    hits, by_retrained = _hits(files, records, ANSWERS), True
    if hits is None:
        hits, by_retrained = _hits(files, records, reading.ANSWERS["accuracy"]), False
    if hits is None:
        return [Equal(one, seeds, why="not all cells kept their answers to the test images") for one in defended]
    mse = [np.stack([files.errors(record) for record in row]) for row in records]
    shared = len({row[0].images_digest for row in records}) == 1, len({row[0].test_digest for row in records}) == 1
    found = at_equal_accuracy([one.sigma for one in line], mse, hits, shared=shared)
    means = np.mean([values.mean(1) for values in mse], 0)[len(line) :]
    return [
        Equal(
            configuration,
            seeds,
            RETRAINED if by_retrained else TRAINED,
            one.accuracy,
            float(mean),
            one.reference,
            one.difference,
            one.raw.get(configuration.sigma),
            "" if one.difference else AT_END if one.at_end and one.reference else OUTSIDE,
            one.beyond,
        )
        for configuration, one, mean in zip(defended, found, means, strict=True)
    ]


def _hits(files: AttackFiles, records: Sequence[Sequence[Record]], name: str) -> list[np.ndarray] | None:
    """Return the answers of all cells, (cells, images) of each seed; None where not all have left as many of them."""
    found = []
    for row in records:
        answers = [one for one in (files.answers(record, name) for record in row) if one is not None]
        if len(answers) < len(row) or len({len(one) for one in answers}) > 1:
            return None
        found.append(np.stack(answers).astype(np.float32))
    return found
