"""Everything that a bench folder says, found once, for a report that only formats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..statistics.evidence import MARGIN
from . import records, tables
from .attack_files import AFRESH, AttackFiles, Look
from .ceiling import Shares, shares
from .cem_effect import CemEffect, cem_effects
from .equal_accuracy import Equal, equals
from .groups import ComparisonGroup, Configuration, comparison_groups
from .left_out import planned
from .published_tables import Line, beside_published
from .record_types import NOISE, Described, Failure, Record

ANSWERS = ""
"""Stands for the answers to the test images, among the labels of attacks."""


@dataclass(frozen=True)
class Part:
    """What is said of one comparison group; ``shares`` as of `ceiling.shares`."""

    group: ComparisonGroup
    effects: Sequence[CemEffect]
    equal: Sequence[Equal]
    published: Sequence[Line]
    shares: Shares

    @property
    def opening(self) -> list[tuple[str, Configuration, Record]]:
        """The trainings whose pictures a report opens with, and what to call them; chosen before they are seen.

        The first comparison without and with CEM, in the order of its table, with the first seed that both have, and
        between them the noise alone, with all other settings alike, that is nearest in accuracy to the latter; where
        there is no comparison, the ends of the front.
        """
        if not self.effects:
            best = self.group.best
            ends = {"most accurate": best[-1], "most private": best[0]} if len(best) > 1 else {"best": best[0]}
            return [(title, one, one.records[0]) for title, one in ends.items()]
        first = self.effects[0]
        seed, cem = first.seeds[0], first.configuration
        alone = [
            one
            for one in self.group.configurations
            if one.family == NOISE and not one.cem and one.others == cem.others and seed in one.by_seed
        ]
        near = min(alone, key=lambda one: abs(one.accuracy.mean - cem.accuracy.mean), default=first.without)
        shown = {"without CEM": first.without, "noise alone, nearest in accuracy": near, "with CEM": cem}
        if near is first.without:
            del shown["noise alone, nearest in accuracy"]
        return [(title, one, one.by_seed[seed]) for title, one in shown.items()]

    @property
    def at_equal(self) -> dict[int, Equal]:
        """The comparison at equal accuracy by the ``id`` of its configuration."""
        return {id(row.configuration): row for row in self.equal}


@dataclass(frozen=True)
class Findings:
    """Everything that a bench folder says.

    Attributes:
        records: of the cells that it says something of.
        parts: one for each comparison group.
        failed: cells that were given up.
        grids: those that were run in the folder.
        left_out: id of a cell -> why nothing is said of it: its attacks are not those of its record.
        unread: id of a cell -> label of an attack, or ANSWERS -> why its files cannot be read; nothing is said of them.
    """

    folder: Path
    records: Sequence[Record]
    failed: Sequence[Failure]
    grids: Sequence[Described]
    parts: Sequence[Part]
    left_out: Mapping[str, str] = field(default_factory=dict)
    unread: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: str | Path) -> Findings:
        """Read a bench folder and compare what can be compared.

        Cells whose attacks were made again since their record was written are left out, and so are attacks of which a
        file is missing or damaged.

        Raises:
            UserError: as `records.gather`; no cell is left.
        """
        folder = Path(folder)
        files = AttackFiles(folder)
        looks = {record.id: files.look(record) for record in records.gather(folder)}
        left_out = {name: look.why for name, look in looks.items() if look.why}
        unread = {name: dict(look.unread) for name, look in looks.items() if look.unread}
        found = [look.record for look in looks.values() if look.record]
        if not found:
            raise UserError(f"{folder} has no cell of which something can be said: {_first(looks)}")
        parts = [
            Part(
                group,
                cem_effects(folder, group, files),
                equals(folder, group, files),
                beside_published(group),
                shares(folder, group, files),
            )
            for group in comparison_groups(found)
        ]
        for name, why in files.unread_answers.items():
            unread.setdefault(name, {})[ANSWERS] = why
        return cls(folder, found, records.failures(folder), records.grids(folder), parts, left_out, unread)

    @property
    def notes(self) -> list[str]:
        """A line for each cell, and for each attack of a cell, of which nothing is said."""
        lines = [f"Cell {name} is left out: {why}; {AFRESH}." for name, why in self.left_out.items()]
        there = {record.id for record in self.records}
        for name, unread in self.unread.items():
            for label, why in unread.items():
                what = "The answers" if label == ANSWERS else f"The attack {label}"
                last = "" if name in there else " With it the whole cell is left out."
                lines.append(f"{what} of cell {name} {'are' if label == ANSWERS else 'is'} left out: {why}.{last}")
        return lines

    @property
    def named_margin(self) -> float | None:
        """The smallest loss of accuracy that a grid has named beforehand, in points."""
        return min((about.margin for about in self.grids if about.margin is not None), default=None)

    @property
    def margin(self) -> float:
        """Loss of accuracy that is to be excluded, in points."""
        return self.named_margin or MARGIN

    @property
    def groups(self) -> list[ComparisonGroup]:
        """The comparison groups."""
        return [part.group for part in self.parts]

    @property
    def effects(self) -> list[CemEffect]:
        """CEM's effects in all groups."""
        return [effect for part in self.parts for effect in part.effects]

    @property
    def equal(self) -> list[Equal]:
        """The comparisons at equal accuracy in all groups."""
        return [row for part in self.parts for row in part.equal]

    @property
    def shares(self) -> Shares:
        """Where the trainings of all groups lie between the undefended wire and the ceiling."""
        return {name: share for part in self.parts for name, share in part.shares.items()}

    @property
    def unfinished(self) -> tuple[int, int]:
        """How many cells that were planned or begun are neither done nor given up, and how many there are."""
        failed, there = {note.id for note in self.failed}, planned(self.folder, self.grids)
        return len(there - failed - {record.id for record in self.records}), len(there)

    def tables(self) -> list[tables.Table]:
        """Return the tables that a report offers as files."""

        def each(name: str) -> list[tuple[ComparisonGroup, Any]]:
            return [(part.group, row) for part in self.parts for row in getattr(part, name)]

        same = {key: row for part in self.parts for key, row in part.at_equal.items()}
        return [
            tables.cells_table(self.groups, self.shares),
            tables.effects_table(each("effects"), same, self.shares),
            tables.equal_table(each("equal"), self.shares),
            tables.published_table(each("published")),
        ]

    def by_need(self) -> list[Record]:
        """Return the records: of the opening, of the fronts (first seeds before all others), and the newest."""
        best = [one.records for group in self.groups for one in group.best]
        need = {record.id: min(place, 1) for trainings in best for place, record in enumerate(trainings)}
        need |= {record.id: -1 for part in self.parts for _, _, record in part.opening}
        newest = sorted(self.records, key=lambda record: record.finished, reverse=True)
        return sorted(newest, key=lambda record: need.get(record.id, 2))


def _first(looks: Mapping[str, Look]) -> str:
    """Return what is wrong with the first cell."""
    name, look = next(iter(looks.items()))
    if look.why:
        return f"of cell {name}, {look.why}; {AFRESH}"
    label, why = next(iter(look.unread.items()))
    return f"of cell {name}, the attack {label}: {why}"
