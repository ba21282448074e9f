"""Two benches side by side, configuration by configuration, and what may stand on each side of a comparison."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..statistics.evidence import MARGIN, checked_margin
from ..statistics.intervals import Interval, unpaired_difference
from . import records
from .comparable import (
    ACCURACIES,
    BASIC,
    BEST,
    NETWORK,
    WORST,
    Pending,
    Side,
    accuracy_rows,
    attack_rows,
    best_rows,
    read_interval,
)
from .comparison import Comparison, compare_runs, gathered, judged, row_of, to_draw
from .groups import paired_intervals

TRAINED_ON = ("seed", "root", "devices")
"""Settings that tell trainings of one configuration apart, or only where they were made."""


@dataclass(frozen=True)
class Cells:
    """Two benches: the comparison of each configuration that both have, and the cells that only one has.

    Attributes:
        common, axes: by the id of the configuration's first cell.
        seeds: of each, the pairs of cells: trainings with one seed, one of each bench.
    """

    common: dict[str, Comparison]
    axes: dict[str, dict[str, Any]]
    seeds: dict[str, int]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        cells = {
            name: {"axes": self.axes[name], "seeds": self.seeds[name], **found.as_dict()}
            for name, found in self.common.items()
        }
        return {"cells": cells, "only_a": list(self.only_a), "only_b": list(self.only_b)}


def compare(a: str | Path, b: str | Path, margin: float = MARGIN) -> Comparison | Cells:
    """Compare two run folders, several of each side, or two bench folders.

    Args:
        a, b: a folder, or a pattern such as ``runs/noise-*`` that names trainings of one configuration.
        margin: loss of accuracy, in points, that is to be excluded.

    Raises:
        UserError: the same folder twice, a run and a bench, a pattern that nothing matches, or as for `compare_runs`
            and `compare_benches`.

    >>> compare("runs/a", "runs/../runs/a")
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: runs/a and runs/../runs/a are the same folder; name two
    """
    checked_margin(margin)
    one, other = _folders(a), _folders(b)
    for first in one:
        for second in other:
            if first.resolve() == second.resolve():
                raise UserError(f"{first} and {second} are the same folder; name two")
    benches = [path for path in (*one, *other) if (path / "cells").is_dir()]
    if not benches:
        return compare_runs(one, other, margin)
    if plain := [path for path in (*one, *other) if path not in benches]:
        raise UserError(f"{benches[0]} is a bench and {plain[0]} is none; compare two runs, or two benches")
    if len(benches) > 2:
        raise UserError(f"{a} and {b} are {len(benches)} benches; compare two")
    return compare_benches(one[0], other[0], margin)


def _folders(named: str | Path) -> list[Path]:
    """What a pattern names; a name without one as it is."""
    path = Path(named)
    if path.exists() or not any(letter in str(named) for letter in "*?["):
        return [path]
    anchor = Path(path.anchor)
    found = sorted(folder for folder in anchor.glob(str(path.relative_to(anchor))) if folder.is_dir())
    if not found:
        raise UserError(f"no folder matches {named}; name run folders, such as 'runs/noise-*' in quotes")
    return found


def compare_benches(a: Path, b: Path, margin: float = MARGIN) -> Comparison | Cells:
    """Accuracy and best attacker of every configuration of which both benches have finished cells of one seed.

    Where not all attacks were judged on held-out images, the worst case stands for the best attacker.

    Two benches of one configuration each, with the seeds as their cells, are compared like two sets of runs. A cell
    whose values per image are not there, or are of other images, is compared unpaired, from its record.

    Raises:
        UserError: a bench without a finished cell, or two without a common one.
    """
    first, second = ({record["id"]: record for record in records.gather(path)} for path in (a, b))
    common = [name for name in first if name in second]
    if not common:
        if all(len({_configuration(record) for record in found.values()}) == 1 for found in (first, second)):
            one, other = ([path / "cells" / name for name in found] for path, found in ((a, first), (b, second)))
            return compare_runs(one, other, margin)
        raise UserError(
            f"{a} and {b} have no cell in common ({len(first)} and {len(second)} are finished): their configurations "
            "differ, and with them the ids; compare two runs of the same grid"
        )
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(common, key=lambda name: first[name]["config"].get("seed", 0)):
        groups[_configuration(first[name])].append(name)
    cells = {name: _cell(a / "cells" / name, b / "cells" / name, first[name], second[name]) for name in common}
    parts = {group[0]: gathered(_of_one_attacker([cells[name][0] for name in group])) for group in groups.values()}
    drawn = iter(_drawn([values for rows in parts.values() for row in rows for values in to_draw(row)]))
    rows = {name: [row_of(row, drawn, margin) for row in found] for name, found in parts.items()}
    corrected = iter(judged([row for found in rows.values() for row in found]))
    comparisons = {
        group[0]: Comparison(
            tuple(next(corrected) for _ in rows[group[0]]),
            tuple(dict.fromkeys(note for name in group for note in cells[name][1])),
        )
        for group in groups.values()
    }
    axes = {name: {key: value for key, value in first[name]["axes"].items() if key != "seed"} for name in comparisons}
    only_a, only_b = (tuple(n for n in here if n not in there) for here, there in ((first, second), (second, first)))
    return Cells(comparisons, axes, {group[0]: len(group) for group in groups.values()}, only_a, only_b)


def _of_one_attacker(cells: list[list[Pending]]) -> list[list[Pending]]:
    """The rows of a configuration's cells with the best attacker where all have it, else with the worst case."""
    left = WORST if all(any(row.what == BEST for row in rows) for rows in cells) else BEST
    return [[row for row in rows if row.what != left] for rows in cells]


def _configuration(record: dict[str, Any]) -> str:
    settings = {key: value for key, value in record["config"].items() if key not in TRAINED_ON}
    return json.dumps(settings, sort_keys=True)


def _drawn(samples: Sequence[Tensor]) -> list[Interval]:
    """Intervals of the means, of all samples of the same size with the same resampled images: a bench has many."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for place, values in enumerate(samples):
        by_size[len(values)].append(place)
    drawn: dict[int, Interval] = {}
    for places in by_size.values():
        intervals = paired_intervals(torch.stack([samples[place] for place in places]).numpy())
        drawn |= dict(zip(places, intervals, strict=True))
    return [drawn[place] for place in range(len(samples))]


def _cell(a: Path, b: Path, first: dict[str, Any], second: dict[str, Any]) -> tuple[list[Pending], list[str]]:
    """Accuracies, best attacker and worst case of a cell, and notes."""
    try:
        one, other = Side.of(a, "A"), Side.of(b, "B")
        pending, refused, notes = attack_rows(one, other)
        accuracy, said = accuracy_rows(one, other)
        labels = list(dict.fromkeys(row.what for row in pending if row.what != WORST))
        best, _ = best_rows(one, other, labels, pending[0].images if pending else None)
    except UserError as error:
        return _unpaired(first, second, "accuracy and attacks", str(error))
    reasons = [f"{label} left out: {why}" for label, why in refused.items()]
    reasons += [f"{label} left out: only one has it" for label in sorted(set(one.attacks) ^ set(other.attacks))]
    if worst := [row for row in pending if row.what == WORST]:
        return [*accuracy, *best, *worst], [*reasons, *notes, *said]
    rows, why = _unpaired(first, second, "attacks", "; ".join(reasons))
    return [*accuracy, *(row for row in rows if row.what != NETWORK)], [*said, *why]


def _unpaired(first: dict[str, Any], second: dict[str, Any], named: str, why: str) -> tuple[list[Pending], list[str]]:
    """What the two records of a cell tell without values per image, as if their images were independent."""
    rows = [
        (NETWORK, name, *(read_interval(record[name]) for record in (first, second)))
        for name in ACCURACIES
        if first.get(name) and second.get(name)
    ]
    notes = [f"{named} compared unpaired, from the intervals (Newcombe 1998; Zou and Donner 2008): {why}"]
    attacks = [{label: attack["attack"] for label, attack in record["attacks"].items()} for record in (first, second)]
    if attacks[0] == attacks[1] and all(first[key] == second[key] for key in ("protocol", "attacker_size")):
        for what, key in ((BEST, "best_attacker"), (WORST, "worst_case")):
            if first.get(key) and second.get(key):
                rows += [(what, name, *(read_interval(r[key][name]) for r in (first, second))) for name in BASIC]
    else:
        notes.append("attacks left out: other attacks, or another protocol")
    return [Pending(what, name, x, y, unpaired_difference(y, x)) for what, name, x, y in rows], notes
