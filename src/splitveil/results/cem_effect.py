"""What CEM changes: each configuration beside the same one without CEM, seed by seed on the same images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..statistics.evidence import combined
from ..statistics.intervals import Interval, paired_hits, unpaired_difference
from .attack_files import AttackFiles
from .groups import TRAININGS, ComparisonGroup, Configuration, configuration_key, paired_intervals, same
from .record_types import CEM, Record

Pair = tuple[Record, Record]
"""Two records of one seed: without CEM, with it."""


@dataclass(frozen=True)
class CemEffect:
    """What CEM changes in one configuration; every difference is with minus without.

    Attributes:
        without, configuration: the two configurations that are compared.
        seeds: the seeds that both have, in the order of the two lists.
        mse_by_seed: paired over the attacked images.
        accuracy_by_seed: paired over the test images where both runs have left their answers, else as if the images
            were others (Newcombe 1998), which is rather too wide.
        mse, accuracy: over the seeds (Student), and for one seed that seed's.
        mse_means, accuracy_means: without and with, over the seeds.
        accuracy_paired: whether it is for all seeds.
    """

    without: Configuration
    configuration: Configuration
    seeds: tuple[int, ...]
    mse_by_seed: tuple[Interval, ...]
    accuracy_by_seed: tuple[Interval, ...]
    mse: Interval
    accuracy: Interval
    mse_means: tuple[float, float]
    accuracy_means: tuple[float, float]
    accuracy_paired: bool

    @property
    def relative(self) -> float:
        """Change of the error as a share of the error without CEM."""
        return self.mse.mean / self.mse_means[0]


def cem_effects(folder: str | Path, group: ComparisonGroup, files: AttackFiles | None = None) -> list[CemEffect]:
    """Return CEM's effect on each configuration that has a partner without CEM.

    Seeds whose attacked images are not known to be the same (``images_digest``) are left out.

    Args:
        folder: the bench folder, which holds the errors and the answers per image.
        group: the configurations that may be compared.
        files: of the attacks in the folder, where some were read already.

    Raises:
        UserError: errors per image are missing or damaged, or of other attacks than the record.
    """
    files = files or AttackFiles(folder)

    def errors_of(name: str) -> np.ndarray:
        return files.errors(records[name])

    records = {record.id: record for record in group.records}
    plain = {_base(one): one for one in reversed(group.configurations) if not one.cem}
    partners = [(plain[_base(one)], one) for one in group.configurations if one.cem and _base(one) in plain]
    work = [(partner, one, pairs) for partner, one in partners if (pairs := _pairs(files, partner, one))]
    every = [pair for _, _, pairs in work for pair in pairs]
    mse = _paired(every, errors_of)
    test = {
        (a.id, b.id): (float(hits[0].mean()), paired_hits(hits[1], hits[0]))
        for a, b in every
        if (hits := _answers(files, (a, b)))
    }
    return [_effect(partner, one, pairs, mse, test) for partner, one, pairs in work]


def _base(one: Configuration) -> str:
    """Return the configuration without CEM, as a key."""
    others = [(name, parameters) for name, parameters in one.records[0].stack if name != CEM]
    return json.dumps([configuration_key(one.records[0], (*TRAININGS, "defense")), others], sort_keys=True)


def _pairs(files: AttackFiles, without: Configuration, one: Configuration) -> list[Pair]:
    both = [(without.by_seed.get(record.seed), record) for record in one.records]
    same = [(a, b) for a, b in both if a and a.images_digest and a.images_digest == b.images_digest]
    return [(a, b) for a, b in same if files.kept(a) and files.kept(b)]


def _answers(files: AttackFiles, pair: Pair) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the answers of both networks to the same test images; None where one has not left them all."""
    one, other = pair
    if not one.test_digest or one.test_digest != other.test_digest:
        return None
    first, second = files.answers(one), files.answers(other)
    return None if first is None or second is None or len(first) != len(second) else (first, second)


Paired = dict[tuple[str, str], tuple[float, Interval]]
"""By the ids of a pair: the mean without CEM, and the paired difference."""


def _paired(pairs: Sequence[Pair], values: Callable[[str], np.ndarray]) -> Paired:
    by_count: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for one, other in pairs:
        by_count[len(values(one.id))].append((one.id, other.id))
    found = {}
    for group in by_count.values():
        changes = np.stack([values(b).astype(float) - values(a) for a, b in group])
        for (a, b), change in zip(group, paired_intervals(changes), strict=True):
            found[a, b] = float(values(a).mean()), change
    return found


def _effect(without: Configuration, one: Configuration, pairs: Sequence[Pair], mse: Paired, test: Paired) -> CemEffect:
    ids = [(a.id, b.id) for a, b in pairs]
    changes = [mse[key][1] for key in ids]
    accuracies = [
        test[key][1] if key in test else unpaired_difference(b.accuracy, a.accuracy)
        for key, (a, b) in zip(ids, pairs, strict=True)
    ]
    before = float(np.mean([mse[key][0] for key in ids]))
    share = float(np.mean([a.accuracy.mean for a, _ in pairs]))
    attacked, tested = (same([b for _, b in pairs], digest) for digest in ("images_digest", "test_digest"))
    error, accuracy = combined(changes, shared=attacked), combined(accuracies, shared=tested)
    return CemEffect(
        without,
        one,
        tuple(a.seed for a, _ in pairs),
        tuple(changes),
        tuple(accuracies),
        error,
        accuracy,
        (before, before + error.mean),
        (share, share + accuracy.mean),
        all(key in test for key in ids),
    )
