"""Cells of a bench folder that are not done, of which a comparison and a report say nothing: which, and why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import records
from .record_types import Described

LISTED = 10
"""Most names in a line."""


@dataclass(frozen=True)
class Undone:
    """The cells of a bench folder that are not done.

    Attributes:
        unfinished: ids of those that were planned or begun.
        given_up: ids of those that failed too often.
    """

    unfinished: tuple[str, ...]
    given_up: tuple[str, ...]

    @classmethod
    def of(cls, folder: Path, done: Iterable[str]) -> Undone:
        """Return the cells that are not done.

        Args:
            folder: the bench folder.
            done: ids of its finished cells.

        Raises:
            UserError: a grid or the note of a failed cell cannot be read.
        """
        failed = sorted(note.id for note in records.failures(folder))
        there = planned(folder, records.grids(folder)) - set(done) - set(failed)
        return cls(tuple(sorted(there)), tuple(failed))

    def notes(self, folder: str | Path) -> list[str]:
        """Return a sentence for each kind of cells, which names the first of them.

        Args:
            folder: what to call the bench folder.

        >>> Undone(("c2", "c5"), ()).notes("runs/grid")
        ['left out, not finished in runs/grid: c2, c5']
        """
        kinds = {"not finished": self.unfinished, "given up": self.given_up}
        return [f"left out, {kind} in {folder}: {listed(names)}" for kind, names in kinds.items() if names]


def planned(folder: Path, grids: Iterable[Described]) -> set[str]:
    """Return the ids of the cells that grids named, that were begun or that were given up.

    Args:
        folder: the bench folder.
        grids: those that were run in it.
    """
    begun = {path.name for path in (folder / "cells").iterdir() if path.is_dir()}
    return begun.union({note.id for note in records.failures(folder)}, *(about.cells for about in grids))


def listed(names: Sequence[str]) -> str:
    """Return names in a line, of many the first ones.

    Args:
        names: what is named.

    >>> listed([f"c{i}" for i in range(12)])
    'c0, c1, c2, c3, c4, c5, c6, c7, c8, c9 and 2 more'
    """
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
