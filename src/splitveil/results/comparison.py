"""Runs side by side: differences with intervals, in pairs of one seed, on the same images where that can be shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import config
from ..errors import UserError
from ..runs import Run
from ..statistics.evidence import LEAST, LEVEL, MARGIN, hierarchical, holm, over_seeds, p_value, points_of
from ..statistics.intervals import Interval, bootstrap_ci
from .comparable import (
    ACCURACIES,
    BEST,
    NETWORK,
    PRIVACY,
    WORST,
    Pending,
    Side,
    accuracy_rows,
    attack_rows,
    best_rows,
    why_nothing,
)


@dataclass(frozen=True)
class Row:
    """One metric of both, and B − A with its 95 % interval.

    Attributes:
        what: an attack's label; ``best attacker``, who chooses among the attacks that both have by what can be known
            without the attacked images; ``worst case``, image by image over these attacks; or ``network``.
        paired: whether the difference was taken image by image.
        seeds: pairs of trainings; of one, the interval is over its images alone.
        p: corrected for the other rows of the table (Holm); None: not corrected.
        margin: loss of accuracy, in points, that is to be excluded.

    >>> zero, tenth = Interval(0, 0, 0), Interval(0.1, 0.05, 0.15)
    >>> [Row("decoder", metric, zero, tenth, tenth, True, seeds=4).verdict for metric in ("mse", "ssim")]
    ['higher: more private', 'higher: less private']
    >>> Row("decoder", "mse", zero, tenth, tenth, True).verdict
    'differs in these two trainings'
    """

    what: str
    metric: str
    a: Interval
    b: Interval
    difference: Interval
    paired: bool
    seeds: int = 1
    p: float | None = None
    margin: float = MARGIN

    @property
    def shown(self) -> bool:
        """Whether there is a difference beyond the images, and of several trainings beyond their seeds."""
        return (p_value(self.difference, self.seeds) if self.p is None else self.p) < LEVEL

    @property
    def verdict(self) -> str:
        """In words. What was changed is the cause only where at least `evidence.LEAST` pairs of trainings say so."""
        if self.seeds < LEAST:
            these = f"in these {('two', 'four')[self.seeds - 1]} trainings"
            return f"differs {these}" if self.shown else f"no difference shown {these}"
        up = self.difference.mean > 0
        if self.metric in ACCURACIES:
            return self._accuracy(up)
        if not self.shown:
            return "no difference shown"
        private = up == (PRIVACY[self.metric] > 0)
        return f"{'higher' if up else 'lower'}: {'more' if private else 'less'} private"

    def _accuracy(self, up: bool) -> str:
        loss, within = points_of(self.margin), self.difference.lo > -self.margin / 100
        if not self.shown:
            return f"a loss of {loss} is{'' if within else ' not'} excluded"
        if up:
            return "higher: more accurate"
        return "lower: less accurate" + (f", by less than {loss}" if within else "")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = {key: getattr(self, key).as_dict() for key in ("a", "b", "difference")}
        about = {"paired": self.paired, "seeds": self.seeds, "p_holm": self.p, "verdict": self.verdict}
        return {"what": self.what, "metric": self.metric, **values, **about}


@dataclass(frozen=True)
class Comparison:
    """Rows, what had to be left out or taken unpaired and why, and what makes the attacks' figures doubtful."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"rows": [row.as_dict() for row in self.rows], "notes": list(self.notes), "flags": list(self.flags)}


def compare_runs(a: Sequence[Path], b: Sequence[Path], margin: float = MARGIN) -> Comparison:
    """The accuracy, and every attack that was made on both in the same way and on the same images.

    Of several attacks also the best attacker that can exist and the worst case, who knows the truth.

    Args:
        a, b: run folders; several of a side are trainings of one configuration, and are compared seed by seed.
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
            raise UserError(why_nothing(one, other, refused, seeds))
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
    rows = judged([row_of(parts, drawn, margin) for parts in together])
    notes = [note if len(at) == len(pairs) else f"seed {', '.join(map(str, at))}: {note}" for note, at in said.items()]
    flags = [flag for pair in sides for flag in _flags(pair, {row.what for row in rows})]
    return Comparison(tuple(rows), (*left_out, *notes), tuple(flags))


def _by_seed(paths: Sequence[Path]) -> dict[int, Run]:
    """The runs of a side by their seeds.

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
        settings.model_dump(mode="json", exclude={"seed", "root", "devices"})
        | {"data": config.divided(settings.data)[0]}
        for settings in (one, other)
    )
    return [key for key in first if first[key] != second[key]]


def _pairs(one: dict[int, Run], other: dict[int, Run]) -> tuple[list[tuple[Run, Run]], list[str]]:
    """Runs of the same seed, and what has no partner; one run of each side is a pair whatever their seeds are."""
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


def gathered(pairs: Sequence[Sequence[Pending]]) -> list[tuple[Pending, ...]]:
    """The parts of each row: one for each pair of trainings that has it."""
    parts: dict[tuple[str, str], list[Pending]] = {}
    for rows in pairs:
        for row in rows:
            parts.setdefault((row.what, row.metric), []).append(row)
    return [tuple(found) for found in parts.values()]


def to_draw(parts: Sequence[Pending]) -> list[Tensor]:
    """Values per image whose mean needs a bootstrap interval: those of a single pair of trainings."""
    only = parts[0]
    return [value for value in (only.change, only.a, only.b) if isinstance(value, Tensor)] if len(parts) == 1 else []


def row_of(parts: Sequence[Pending], drawn: Iterator[Interval], margin: float = MARGIN) -> Row:
    """The row of ``parts``, with the intervals of `to_draw` taken from ``drawn``."""
    first = parts[0]
    if len(parts) == 1:
        difference, a, b = (next(drawn) if isinstance(v, Tensor) else v for v in (first.change, first.a, first.b))
    else:
        a, b = (over_seeds([_mean(getattr(part, side)) for part in parts]) for side in ("a", "b"))
        shared = first.images is not None and all(part.images == first.images for part in parts)
        changes = [c.numpy() if isinstance(c, Tensor) else c for c in (part.change for part in parts)]
        difference = hierarchical(changes, shared)
    paired = all(isinstance(part.change, Tensor) for part in parts)
    return Row(first.what, first.metric, a, b, difference, paired, len(parts), margin=margin)


def _mean(values: Interval | Tensor) -> float:
    return values.mean if isinstance(values, Interval) else float(values.mean())


def judged(rows: Sequence[Row]) -> list[Row]:
    """The rows with their p values, corrected for the number of rows."""
    corrected = holm([p_value(row.difference, row.seeds) for row in rows])
    return [replace(row, p=p) for row, p in zip(rows, corrected, strict=True)]
