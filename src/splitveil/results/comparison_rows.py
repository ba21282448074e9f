"""The rows of a comparison: metrics of two sides with their difference, before and after it is judged."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..evaluation.scores import PRIVACY, SHARES, limits
from ..statistics.ceiling import share_intervals
from ..statistics.evidence import LEAST, LEVEL, MARGIN, combined, hierarchical, holm, over_seeds, p_value, points_of
from ..statistics.intervals import Interval, paired_hits
from ..storage import reading

ACCURACIES = tuple(reading.ANSWERS)
BEST = "best attacker"
WORST = "worst case"
NETWORK = "network"


@dataclass(frozen=True)
class Row:
    """One metric of both, and B − A with its 95 % interval.

    Attributes:
        what: an attack's label; ``best attacker``, who chooses among the attacks that both have by what can be known
            without the attacked images; ``worst case``, image by image over these attacks; or ``network``.
        paired: whether the difference was taken image by image.
        seeds: pairs of trainings; of one, the interval is over its images alone.
        p: p value of the difference, which `judged` corrects for the other rows of the table (Holm); None: it is that
            of ``difference``.
        margin: loss of accuracy, in points, that is to be excluded.
        share: of an MSE, where B lies on the way from A to the mean image of the true class; see `statistics.ceiling`.

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
    share: Interval | None = None

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
        about |= {"share_of_ceiling": self.share.as_dict() if self.share else None} if self.metric == "mse" else {}
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


@dataclass(frozen=True)
class Way:
    """Errors between which a share of the ceiling is taken, each (N,)."""

    error: Tensor
    undefended: Tensor
    ceiling: Tensor


@dataclass(frozen=True)
class Pending:
    """One metric of one pair of trainings.

    Attributes:
        a, b: intervals where these are known, else values per image.
        change: B − A per image, (N,), or its interval where it could not be paired.
        images: digest of the images, where it is known.
        hits: of a share, whether each image is a hit of A, and of B, where ``change`` is their difference.
        way: of an MSE, the errors per image of which the share of the ceiling is taken, where they are known.
    """

    what: str
    metric: str
    a: Interval | Tensor
    b: Interval | Tensor
    change: Interval | Tensor
    images: str | None = None
    hits: tuple[Tensor, Tensor] | None = None
    way: Way | None = None


def gathered(pairs: Sequence[Sequence[Pending]]) -> list[tuple[Pending, ...]]:
    """Return the parts of each row: one for each pair of trainings that has it."""
    parts: dict[tuple[str, str], list[Pending]] = {}
    for rows in pairs:
        for row in rows:
            parts.setdefault((row.what, row.metric), []).append(row)
    return [tuple(found) for found in parts.values()]


def to_draw(parts: Sequence[Pending]) -> list[Tensor]:
    """Values per image whose mean needs a bootstrap interval: those of a single pair of trainings."""
    return [value for value in _sides(parts[0]) if isinstance(value, Tensor)] if len(parts) == 1 else []


def _sides(only: Pending) -> tuple[Interval | Tensor, ...]:
    """Return the change, A and B of a single pair; shares have intervals that need no bootstrap."""
    change = only.change if only.hits is None else paired_hits(only.hits[1], only.hits[0])
    return change, only.a, only.b


def row_of(parts: Sequence[Pending], drawn: Iterator[Interval], margin: float = MARGIN) -> Row:
    """Return the row of ``parts``, with the intervals of `to_draw` taken from ``drawn``.

    A and B, and the difference of two shares, are cut to what is possible; the p value is made of the whole interval.
    """
    first = parts[0]
    if len(parts) == 1:
        difference, a, b = (next(drawn) if isinstance(v, Tensor) else v for v in _sides(first))
    else:
        a, b = (over_seeds([_mean(getattr(part, side)) for part in parts]) for side in ("a", "b"))
        changes = [c.numpy() if isinstance(c, Tensor) else c for c in (part.change for part in parts)]
        difference = hierarchical(changes, _same_images(parts), hits=first.hits is not None)
    a, b = (side.within(*limits(first.metric)) for side in (a, b))
    paired, p = all(isinstance(part.change, Tensor) for part in parts), p_value(difference, len(parts))
    if first.metric in SHARES:
        difference = difference.within(-1.0, 1.0)
    return Row(first.what, first.metric, a, b, difference, paired, len(parts), p, margin)


def with_shares(rows: Sequence[Row], parts: Sequence[Sequence[Pending]]) -> list[Row]:
    """Return the rows with their shares of the ceiling, over the seeds as of `evidence.combined`.

    Args:
        rows: a row for each of ``parts``.
        parts: as of `gathered`; a row of which a pair of trainings has no share gets none.
    """
    by_size: dict[int, list[tuple[int, Way]]] = defaultdict(list)
    for place, pairs in enumerate(parts):
        for way in [pair.way for pair in pairs if pair.way is not None]:
            by_size[len(way.error)].append((place, way))
    found: dict[int, list[Interval]] = defaultdict(list)
    for ways in by_size.values():  # with the same resampled images for all: a bench has many
        drawn = share_intervals(
            *(torch.stack([getattr(way, name) for _, way in ways]) for name in ("error", "undefended", "ceiling"))
        )
        for (place, _), share in zip(ways, drawn, strict=True):
            found[place] += [share] if share else []
    return [
        replace(row, share=combined(found[place], shared=_same_images(pairs)))
        if 0 < len(found[place]) == len(pairs)
        else row
        for place, (row, pairs) in enumerate(zip(rows, parts, strict=True))
    ]


def _same_images(parts: Sequence[Pending]) -> bool:
    return parts[0].images is not None and all(part.images == parts[0].images for part in parts)


def _mean(values: Interval | Tensor) -> float:
    return values.mean if isinstance(values, Interval) else float(values.mean())


def judged(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with their p values, corrected for the number of rows."""
    corrected = holm([p_value(row.difference, row.seeds) if row.p is None else row.p for row in rows])
    return [replace(row, p=p) for row, p in zip(rows, corrected, strict=True)]
