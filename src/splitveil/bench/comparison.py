"""Two benches side by side, cell by cell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..comparison import (
    BASIC,
    NETWORK,
    WORST,
    Comparison,
    Pending,
    Row,
    Side,
    accuracy_row,
    attack_rows,
    compare_runs,
    read_interval,
)
from ..errors import UserError
from ..metrics import Interval, unpaired_difference
from . import records
from .analysis import paired_intervals


@dataclass(frozen=True)
class Cells:
    """Two benches: the comparison of each cell that both have finished, by its id, and what is only in one."""

    common: dict[str, Comparison]
    axes: dict[str, dict[str, Any]]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        cells = {name: {"axes": self.axes[name], **found.as_dict()} for name, found in self.common.items()}
        return {"cells": cells, "only_a": list(self.only_a), "only_b": list(self.only_b)}


def compare(a: str | Path, b: str | Path) -> Comparison | Cells:
    """Compare two run folders, or two bench folders.

    Raises:
        UserError: the same folder twice, a run and a bench, or as for `compare_runs` and `compare_benches`.

    >>> compare("runs/a", "runs/../runs/a")
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: runs/a and runs/../runs/a are the same folder; name two
    """
    a, b = Path(a), Path(b)
    if a.resolve() == b.resolve():
        raise UserError(f"{a} and {b} are the same folder; name two")
    benches = [(path / "cells").is_dir() for path in (a, b)]
    if benches[0] != benches[1]:
        bench, run = (a, b) if benches[0] else (b, a)
        raise UserError(f"{bench} is a bench and {run} is none; compare two runs, or two benches")
    return compare_benches(a, b) if benches[0] else compare_runs(a, b)


def compare_benches(a: Path, b: Path) -> Cells:
    """Accuracy and worst case of every cell that both benches have finished, matched by its id: its configuration.

    A cell whose values per image are not there, or are of other images, is compared unpaired, from its record.

    Raises:
        UserError: a bench without a finished cell, or two without a common one.
    """
    first, second = ({record["id"]: record for record in records.gather(path)} for path in (a, b))
    common = [name for name in first if name in second]
    if not common:
        raise UserError(
            f"{a} and {b} have no cell in common ({len(first)} and {len(second)} are finished): their configurations "
            "differ, and with them the ids; compare two runs of the same grid"
        )
    found = {name: _cell(a / "cells" / name, b / "cells" / name, first[name], second[name]) for name in common}
    drawn = iter(_drawn([values for pending, _, _ in found.values() for row in pending for values in row.samples()]))
    comparisons = {
        name: Comparison((*done, *(row.row(drawn) for row in pending)), tuple(notes))
        for name, (pending, done, notes) in found.items()
    }
    axes = {name: first[name]["axes"] for name in common}
    only_a, only_b = (tuple(n for n in here if n not in there) for here, there in ((first, second), (second, first)))
    return Cells(comparisons, axes, only_a, only_b)


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


def _cell(
    a: Path, b: Path, first: dict[str, Any], second: dict[str, Any]
) -> tuple[list[Pending], list[Row], list[str]]:
    """Accuracy and worst case of a cell: rows still to be drawn, finished ones, notes."""
    try:
        one, other = Side.of(a, "A"), Side.of(b, "B")
        pending, refused, notes = attack_rows(one, other)
        accuracy, done, said = accuracy_row(one, other)
    except UserError as error:
        return [], *_unpaired(first, second, "accuracy and worst case", str(error))
    reasons = [f"{label} left out: {why}" for label, why in refused.items()]
    reasons += [f"{label} left out: only one has it" for label in sorted(set(one.attacks) ^ set(other.attacks))]
    if worst := [row for row in pending if row.what == WORST]:
        return [*accuracy, *worst], done, [*reasons, *notes, *said]
    rows, why = _unpaired(first, second, "worst case", "; ".join(reasons))
    return accuracy, [*done, *(row for row in rows if row.what == WORST)], [*said, *why]


def _unpaired(first: dict[str, Any], second: dict[str, Any], named: str, why: str) -> tuple[list[Row], list[str]]:
    """What the two records of a cell tell without values per image, as if their images were independent."""
    rows = [(NETWORK, "accuracy", *(read_interval(record["accuracy"]) for record in (first, second)))]
    notes = [f"{named} compared unpaired, from the intervals (Newcombe 1998; Zou and Donner 2008): {why}"]
    attacks = [{label: attack["attack"] for label, attack in record["attacks"].items()} for record in (first, second)]
    if attacks[0] == attacks[1] and all(first[key] == second[key] for key in ("protocol", "attacker_size")):
        rows += [(WORST, name, *(read_interval(r["worst_case"][name]) for r in (first, second))) for name in BASIC]
    else:
        notes.append("worst case left out: other attacks, or another protocol")
    return [Row(what, name, x, y, unpaired_difference(y, x), False) for what, name, x, y in rows], notes
