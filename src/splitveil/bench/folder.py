"""What lies where in a bench folder, and how far each cell is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..results import records
from ..results.attack_files import alone, as_recorded
from ..results.record_types import Record
from ..storage import reading
from ..storage.files import is_lost
from ..training.lost import AGAIN, lost, lost_answers

if TYPE_CHECKING:
    from .cells import Cell


SET_ASIDE = "record.before.json"


@dataclass(frozen=True)
class GridFolder:
    """Where a bench folder keeps what belongs to a cell.

    >>> GridFolder(Path("runs/grid")).record("0123456789ab").as_posix()
    'runs/grid/cells/0123456789ab/record.json'
    """

    out: Path

    def run(self, cell: str) -> Path:
        """Return the run folder of a cell."""
        return self.out / "cells" / cell

    def record(self, cell: str) -> Path:
        """Return the path of the record, which is written last: with it the cell is done."""
        return self.run(cell) / records.RECORD

    def set_aside(self, cell: str) -> Path:
        """Return the path of a record of which an attack is being made again: it tells which others there are."""
        return self.run(cell) / SET_ASIDE

    def failed(self, cell: str) -> Path:
        """Return the path of the note that is written when the cell is given up."""
        return self.out / "failed" / f"{cell}.json"

    def attempts(self, cell: str) -> Path:
        """Return the path of the notes about the attempts at an unfinished cell."""
        return self.out / "tries" / f"{cell}.json"

    def lock(self, cell: Cell) -> Path:
        """Return the path of the cell's lock file, which cells with the same training share."""
        return self.out / "locks" / f"{cell.trained_alike[0]}.lock"

    def log(self, cell: str) -> Path:
        """Return the path of what the cell printed, attempt after attempt."""
        return self.out / "logs" / f"{cell}.log"


def finished(cell: Cell, out: Path) -> Record | None:
    """Return the record of a cell that is done; None where it is not, or the record lacks what is now asked for.

    That is an attack, or the accuracy of a retrained tail, which earlier versions did not measure. Nor is a cell done
    whose attacks were made again since its record was written, or whose training or attacks have lost a file.

    Raises:
        UserError: the record or a file of an attack is damaged, changed since, or of another schema.
    """
    path = GridFolder(out).record(cell.id)
    if not path.is_file():
        return None
    found = records.read(path)
    sizes = (found.attacker_size, found.attacked) == (cell.attacker_size, cell.attacked)
    there = {label: attack.attack for label, attack in found.attacks.items()}
    asked = {label: spec.resolve("attacks").model_dump(mode="json") for label, spec in cell.attacks.items()}
    complete = sizes and asked.items() <= there.items() and found.retrained_accuracy is not None
    return found if complete and as_recorded(path.parent, found) and _trained(path.parent) else None


def _trained(folder: Path) -> bool:
    """Return whether a run folder holds all that its training has left; one with the record alone is no run folder."""
    if alone(folder):
        return True
    if is_lost(folder / "config.yaml") or is_lost(folder / "summary.json"):
        return False
    summary = reading.read_json(folder / "summary.json", reading.RUN, records.AGAIN)
    return not (lost(folder, summary) or lost_answers(folder, summary))


def mark(folder: Path) -> str:
    """Return how far a run folder is: a text that changes with each epoch, the retraining, attack and checkpoint.

    >>> mark(Path("runs/none"))
    '0 epochs, 0 attacks, 0'
    """
    epochs, attacks = steps(folder)
    patterns = ("attacks/*/partial/*.pt", "summary.json", f"{AGAIN}/metrics.jsonl")
    kept = [path for pattern in patterns for path in folder.glob(pattern)]
    partial = max((path.stat().st_mtime_ns for path in kept), default=0)
    return f"{epochs} epochs, {attacks} attacks, {partial}"


def steps(folder: Path) -> tuple[int, int]:
    """Return the numbers of epochs and attacks that are done in a run folder."""
    curve = folder / "metrics.jsonl"
    epochs = curve.read_text(encoding="utf-8").count("\n") if curve.is_file() else 0
    return epochs, len(list(folder.glob("attacks/*/summary.json")))
