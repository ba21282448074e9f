"""What CEM changes: each setup beside the same one without CEM, seed by seed on the same images."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..statistics.evidence import combined
from ..statistics.intervals import Interval, unpaired_difference
from .groups import CEM, SILENT, Arena, Setup, interval, paired_intervals
from .records import answers, errors


@dataclass(frozen=True)
class Gain:
    """What CEM changes in one setup; every difference is with minus without.

    Attributes:
        without, setup: the two setups that are compared.
        seeds: the seeds that both have, in the order of the two lists.
        mse_by_seed: paired over the attacked images.
        accuracy_by_seed: paired over the test images where both runs have left their answers, else as if the images
            were others (Newcombe 1998), which is rather too wide.
        mse, accuracy: over the seeds (Student), and for one seed that seed's.
        mse_means, accuracy_means: without and with, over the seeds.
        accuracy_paired: whether it is for all seeds.
    """

    without: Setup
    setup: Setup
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


def gains(folder: str | Path, arena: Arena) -> list[Gain]:
    """CEM's gain for each setup that has a partner without CEM.

    Seeds whose attacked images are not known to be the same (``images_digest``) are left out.

    Args:
        folder: the bench folder, which holds the errors and the answers per image.

    Raises:
        UserError: errors or answers per image are missing or damaged.
    """
    plain = {_base(setup): setup for setup in reversed(arena.setups) if not setup.cem}
    partners = [(plain[_base(setup)], setup) for setup in arena.setups if setup.cem and _base(setup) in plain]
    work = [(partner, setup, pairs) for partner, setup in partners if (pairs := _pairs(partner, setup))]
    every = [pair for _, _, pairs in work for pair in pairs]
    values = _Values(Path(folder))
    mse = _paired(every, values.errors)
    test = _paired([pair for pair in every if _same_test(values.folder, pair)], values.hits)
    return [_gain(partner, setup, pairs, mse, test) for partner, setup, pairs in work]


Pair = tuple[dict[str, Any], dict[str, Any]]
"""Two records of one seed: without CEM, with it."""


class _Values:
    """Values per image of the cells, each read once."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._errors: dict[str, np.ndarray] = {}
        self._hits: dict[str, np.ndarray] = {}

    def errors(self, record: dict[str, Any]) -> np.ndarray:
        """MSE of the best attacker, (attacked images,)."""
        if record["id"] not in self._errors:
            cell = self.folder / "cells" / record["id"]
            self._errors[record["id"]] = errors(cell, record)
        return self._errors[record["id"]]

    def hits(self, record: dict[str, Any]) -> np.ndarray:
        """1 where the answer is right, (test images,)."""
        if record["id"] not in self._hits:
            self._hits[record["id"]] = answers(self.folder / "cells" / record["id"]).astype(np.int8)
        return self._hits[record["id"]]


def _pairs(without: Setup, setup: Setup) -> list[Pair]:
    by_seed = {record["config"]["seed"]: record for record in without.records}
    both = [(by_seed.get(record["config"]["seed"]), record) for record in setup.records]
    return [(a, b) for a, b in both if a and a["images_digest"] and a["images_digest"] == b["images_digest"]]


def _same_test(folder: Path, pair: Pair) -> bool:
    """Whether both networks have left their answers on the same test images; runs of before 0.2 have not."""
    digests = [record.get("test_digest") for record in pair]
    files = [folder / "cells" / record["id"] / "test.csv" for record in pair]
    return bool(digests[0]) and digests[0] == digests[1] and all(file.is_file() for file in files)


def _paired(
    pairs: Sequence[Pair], values: Callable[[dict[str, Any]], np.ndarray]
) -> dict[tuple[str, str], tuple[float, Interval]]:
    """By the ids of each pair: the mean without CEM, and the paired difference."""
    by_count: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_count[len(values(pair[0]))].append(pair)
    found = {}
    for group in by_count.values():
        changes = np.stack([values(b).astype(float) - values(a) for a, b in group])
        for (a, b), change in zip(group, paired_intervals(changes), strict=True):
            found[a["id"], b["id"]] = float(values(a).mean()), change
    return found


def _gain(
    without: Setup,
    setup: Setup,
    pairs: Sequence[Pair],
    mse: dict[tuple[str, str], tuple[float, Interval]],
    test: dict[tuple[str, str], tuple[float, Interval]],
) -> Gain:
    ids = [(a["id"], b["id"]) for a, b in pairs]
    errors = [mse[key] for key in ids]
    accuracies = [
        test[key][1] if key in test else unpaired_difference(interval(b["accuracy"]), interval(a["accuracy"]))
        for key, (a, b) in zip(ids, pairs, strict=True)
    ]
    before = float(np.mean([mean for mean, _ in errors]))
    share = float(np.mean([a["accuracy"]["mean"] for a, _ in pairs]))
    error, accuracy = combined([change for _, change in errors]), combined(accuracies)
    return Gain(
        without,
        setup,
        tuple(a["config"]["seed"] for a, _ in pairs),
        tuple(change for _, change in errors),
        tuple(accuracies),
        error,
        accuracy,
        (before, before + error.mean),
        (share, share + accuracy.mean),
        all(key in test for key in ids),
    )


def _base(setup: Setup) -> str:
    """The setup without CEM, as a key."""
    config = setup.records[0]["config"]
    others = [spec for spec in config["defense"] if CEM not in spec]
    kept = {key: value for key, value in config.items() if key not in SILENT}
    return json.dumps([kept, others], sort_keys=True)
