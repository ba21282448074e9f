"""Runs and benches side by side: differences with intervals, in pairs of one seed, on the same images where known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import config
from ..errors import UserError
from ..runs import Run
from ..statistics.evidence import MARGIN, checked_margin
from ..statistics.intervals import Interval, bootstrap_ci, unpaired_difference
from . import records
from .attack_files import AFRESH, disagreement
from .comparable import Side, accuracy_rows, attack_rows, best_rows, why_nothing
from .comparison_rows import (
    ACCURACIES,
    BEST,
    NETWORK,
    WORST,
    Comparison,
    Pending,
    gathered,
    judged,
    row_of,
    to_draw,
    with_shares,
)
from .groups import TRAININGS, configuration_key, paired_intervals
from .left_out import Undone, listed
from .record_types import Record


def compare_runs(a: Sequence[Path], b: Sequence[Path], margin: float = MARGIN) -> Comparison:
    """Return the accuracy, and every attack that was made on both in the same way and on the same images.

    Of several attacks also the best attacker who does not know the truth and the worst case, who knows the truth.

    Args:
        a: run folders of the first side; several are trainings of one configuration, compared seed by seed.
        b: those of the other side.
        margin: as of `Row`.

    Raises:
        UserError: a run that is not finished, other image sets, several runs of a side that differ in more than their
            seed, no seed or no attack that both have, or none that can be compared.
    """
    pairs, left_out = _pairs(_by_seed(a), _by_seed(b))
    sets = [run.settings.data.partition(":")[0] for run in pairs[0]]  # a folder may have moved: the images tell
    if sets[0] != sets[1]:
        raise UserError(f"{a[0]} was trained on {sets[0]} and {b[0]} on {sets[1]}; compare runs of the same image set")
    found: list[list[Pending]] = []
    said: dict[str, list[int]] = {}
    sides: list[tuple[Side, Side]] = []
    for pair in pairs:
        one, other = (Side.of(run.path) for run in pair)
        seeds = [run.settings.seed for run in pair]
        pending, refused, notes = attack_rows(one, other)
        if not pending and (len(pairs) == 1 or not one.attacks or not other.attacks):
            raise UserError(why_nothing(one, other, refused, [run.settings for run in pair]))
        accuracy, unpaired = accuracy_rows(one, other)
        labels = list(dict.fromkeys(row.what for row in pending if row.what != WORST))
        best, who = best_rows(one, other, labels, pending[0].images if pending else None)
        found.append([*accuracy, *_without_copies([*best, *pending])])
        sides.append((one, other))
        left = [f"{label} left out: {why}" for label, why in refused.items()]
        for note in [*left, *notes, *unpaired, *filter(None, [who])]:
            said.setdefault(note, []).append(seeds[0])
    if not any(row.what != NETWORK for rows in found for row in rows):
        raise UserError(f"{a[0]} and {b[0]}, and the other pairs, cannot be compared: {'; '.join(said)}")
    together = gathered(found)
    drawn = iter([bootstrap_ci(values) for parts in together for values in to_draw(parts)])
    rows = with_shares(judged([row_of(parts, drawn, margin) for parts in together]), together)
    notes = [note if len(at) == len(pairs) else f"seed {', '.join(map(str, at))}: {note}" for note, at in said.items()]
    flags = [flag for pair in sides for flag in _flags(pair, {row.what for row in rows})]
    return Comparison(tuple(rows), (*left_out, *notes), tuple(flags))


def _by_seed(paths: Sequence[Path]) -> dict[int, Run]:
    """Return the runs of a side by their seeds.

    Raises:
        UserError: two with one seed, or that differ in more than it.
    """
    found: dict[int, Run] = {}
    for run in map(Run.open, paths):
        first = next(iter(found.values()), run)
        if changed := _changed(first.settings, run.settings):
            raise UserError(
                f"{first.path} and {run.path} differ in more than the seed ({', '.join(changed)}); name trainings of "
                "one configuration on each side"
            )
        if run.settings.seed in found:
            same = found[run.settings.seed].path
            raise UserError(f"{same} and {run.path} have the same seed, {run.settings.seed}; name one of them")
        found[run.settings.seed] = run
    return found


def _changed(one: config.TrainConfig, other: config.TrainConfig) -> list[str]:
    first, second = (
        settings.model_dump(mode="json", exclude=set(TRAININGS)) | {"data": config.divided(settings.data)[0]}
        for settings in (one, other)
    )
    return [key for key in first if first[key] != second[key]]


def _pairs(one: dict[int, Run], other: dict[int, Run]) -> tuple[list[tuple[Run, Run]], list[str]]:
    """Return runs of the same seed, and what has no partner; a single run of each side is a pair in any case."""
    if len(one) == len(other) == 1:
        return [(next(iter(one.values())), next(iter(other.values())))], []
    both = sorted(one.keys() & other.keys())
    if not both:
        seeds = [", ".join(map(str, sorted(side))) for side in (one, other)]
        raise UserError(
            f"the first side has the seeds {seeds[0]}, the second {seeds[1]}: none in common, and trainings are "
            "compared in pairs of one seed; train the second with the seeds of the first"
        )
    alone = [*(one[seed] for seed in one if seed not in both), *(other[seed] for seed in other if seed not in both)]
    notes = [f"{run.path} left out: the other side has no training with seed {run.settings.seed}" for run in alone]
    return [(one[seed], other[seed]) for seed in both], notes


def _without_copies(pending: list[Pending]) -> list[Pending]:
    """Leave out the best attacker and the worst case of a single attack: it would count thrice among the rows."""
    alone = len({row.what for row in pending} - {BEST, WORST}) == 1
    return [row for row in pending if not (alone and row.what in (BEST, WORST))]


def _flags(pair: tuple[Side, Side], labels: set[str]) -> list[str]:
    return [
        f"{side.path}: {label}: {flag}"
        for side in pair
        for label, found in side.attacks.items()
        if label in labels
        for flag in found.get("flags", ())
    ]


@dataclass(frozen=True)
class Cells:
    """Two benches: the comparison of each configuration that both have, and the cells that are left out.

    Attributes:
        common, axes: by the id of the configuration's first cell.
        seeds: of each, the pairs of cells: trainings with one seed, one of each bench.
        only_a, only_b: cells that are finished in one bench only.
        undone_a, undone_b: cells of each bench that are not finished.
    """

    common: dict[str, Comparison]
    axes: dict[str, dict[str, Any]]
    seeds: dict[str, int]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    undone_a: Undone
    undone_b: Undone

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        cells = {
            name: {"axes": self.axes[name], "seeds": self.seeds[name], **found.as_dict()}
            for name, found in self.common.items()
        }
        sides = {"a": self.undone_a, "b": self.undone_b}
        undone = {f"{kind}_{side}": list(names) for side, one in sides.items() for kind, names in vars(one).items()}
        return {"cells": cells, "only_a": list(self.only_a), "only_b": list(self.only_b), **undone}


def compare(a: str | Path, b: str | Path, margin: float = MARGIN) -> Comparison | Cells:
    """Compare two run folders, several of each side, or two bench folders.

    Args:
        a: a folder, or a pattern such as ``runs/noise-*`` that names trainings of one configuration.
        b: the same of the other side.
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
    """Return what a pattern names; a name without one as it is."""
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
    first, second = ({record.id: record for record in records.gather(path)} for path in (a, b))
    undone = Undone.of(a, first), Undone.of(b, second)
    common = [name for name in first if name in second]
    if not common:
        if all(len({configuration_key(record) for record in found.values()}) == 1 for found in (first, second)):
            one, other = ([path / "cells" / name for name in found] for path, found in ((a, first), (b, second)))
            found = compare_runs(one, other, margin)
            return replace(found, notes=(*found.notes, *undone[0].notes(a), *undone[1].notes(b)))
        raise _nothing_in_common(a, b, first.keys(), second.keys(), undone)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(common, key=lambda name: first[name].seed):
        groups[configuration_key(first[name])].append(name)
    cells = {name: _cell(a / "cells" / name, b / "cells" / name, first[name], second[name]) for name in common}
    parts = {group[0]: gathered(_of_one_attacker([cells[name][0] for name in group])) for group in groups.values()}
    drawn = iter(_drawn([values for rows in parts.values() for row in rows for values in to_draw(row)]))
    rows = {name: [row_of(row, drawn, margin) for row in found] for name, found in parts.items()}
    together = [row for found in parts.values() for row in found]
    corrected = iter(with_shares(judged([row for found in rows.values() for row in found]), together))
    comparisons = {
        group[0]: Comparison(
            tuple(next(corrected) for _ in rows[group[0]]),
            tuple(dict.fromkeys(note for name in group for note in cells[name][1])),
        )
        for group in groups.values()
    }
    axes = {name: {key: value for key, value in first[name].axes.items() if key != "seed"} for name in comparisons}
    only_a, only_b = (tuple(n for n in here if n not in there) for here, there in ((first, second), (second, first)))
    return Cells(comparisons, axes, {group[0]: len(group) for group in groups.values()}, only_a, only_b, *undone)


def _nothing_in_common(
    a: Path, b: Path, first: Collection[str], second: Collection[str], undone: tuple[Undone, Undone]
) -> UserError:
    """Return why two benches with these finished cells cannot be compared."""
    sides = ((a, second, undone[0]), (b, first, undone[1]))
    waiting = [
        f"{listed(found)} in {path}"
        for path, done, not_done in sides
        if (found := [name for name in (*not_done.unfinished, *not_done.given_up) if name in done])
    ]
    start = f"{a} and {b} have no cell in common ({len(first)} and {len(second)} are finished): "
    if waiting:
        return UserError(f"{start}what the other has finished is not: {'; '.join(waiting)}; run that grid again")
    return UserError(f"{start}their configurations differ, and with them the ids; compare two runs of the same grid")


def _of_one_attacker(cells: list[list[Pending]]) -> list[list[Pending]]:
    """Return the rows of a configuration's cells with the best attacker where all have it, else with the worst case."""
    left = WORST if all(any(row.what == BEST for row in rows) for rows in cells) else BEST
    return [[row for row in rows if row.what != left] for rows in cells]


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


def _cell(a: Path, b: Path, first: Record, second: Record) -> tuple[list[Pending], list[str]]:
    """Accuracies, best attacker and worst case of a cell, and notes."""
    try:
        one, other = Side.of(a, "A"), Side.of(b, "B")
        pending, refused, notes = attack_rows(one, other)
        accuracy, said = accuracy_rows(one, other)
        labels = list(dict.fromkeys(row.what for row in pending if row.what != WORST))
        best, _ = best_rows(one, other, labels, pending[0].images if pending else None)
    except UserError as error:
        return _unpaired(first, second, "accuracy and attacks", str(error))
    said += [
        f"{side.name} of cell {first.id} is not what its record says, and reports leave it out: {why}; {AFRESH}"
        for side, record in ((one, first), (other, second))
        if (why := disagreement(side.path, record, side.attacks))
    ]
    reasons = [f"{label} left out: {why}" for label, why in refused.items()]
    reasons += [f"{label} left out: only one has it" for label in sorted(set(one.attacks) ^ set(other.attacks))]
    if worst := [row for row in pending if row.what == WORST]:
        return [*accuracy, *best, *worst], [*reasons, *notes, *said]
    rows, why = _unpaired(first, second, "attacks", "; ".join(reasons))
    return [*accuracy, *(row for row in rows if row.what != NETWORK)], [*said, *why]


def _unpaired(first: Record, second: Record, named: str, why: str) -> tuple[list[Pending], list[str]]:
    """Return what the two records of a cell tell without values per image, as if their images were independent."""
    rows = [
        (NETWORK, name, getattr(first, name), getattr(second, name))
        for name in ACCURACIES
        if getattr(first, name) and getattr(second, name)
    ]
    notes = [f"{named} compared unpaired, from the intervals (Newcombe 1998; Zou and Donner 2008): {why}"]
    terms = [
        ({label: attack.attack for label, attack in record.attacks.items()}, record.protocol, record.attacker_size)
        for record in (first, second)
    ]
    if terms[0] == terms[1]:
        for what, x, y in (
            (BEST, first.best_attacker, second.best_attacker),
            (WORST, first.worst_case, second.worst_case),
        ):
            if x and y:
                rows += [(what, name, getattr(x, name), getattr(y, name)) for name in records.METRICS]
    else:
        notes.append("attacks left out: other attacks, or another protocol")
    return [Pending(what, name, x, y, unpaired_difference(y, x)) for what, name, x, y in rows], notes
