"""The files of a cell's attacks, which may be of later attacks than its record; each is read once for a report."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from .. import config
from ..errors import UserError
from ..evaluation import suites
from ..evaluation.evaluate import lost
from ..statistics.intervals import Interval
from ..storage import reading
from ..storage.reading import ANSWERS
from .record_types import Attacked, Best, Record, Scores
from .records import AGAIN, answers, judged, worst_case

FIGURES = ("mse", "psnr", "ssim")
AFRESH = "run its grid again: it makes what differs anew"

Summaries = Mapping[str, Mapping[str, Any]]
"""Of the attacks of a cell by their label; those are lacking that are not there."""
BEST, WORST = TypeAdapter(Best | None), TypeAdapter(Scores)


@dataclass(frozen=True)
class Look:
    """What a report can say of a cell.

    Attributes:
        record: without the attacks of which a file cannot be read; None where nothing is left to say.
        why: in what the attacks are not those of the record; None where they are.
        unread: label of each attack that is left out -> why its files cannot be read.
    """

    record: Record | None
    why: str | None = None
    unread: Mapping[str, str] = field(default_factory=dict)


class AttackFiles:
    """What the attacks of a bench folder's cells have left, each file read once.

    An attack may be made again after the record of its cell was written: by `splitveil attack`, or by a grid that was
    killed before it wrote the record anew. Figures of the record and values per image would then be of two attacks.

    Args:
        out: the bench folder.
    """

    def __init__(self, out: str | Path):
        self.cells = Path(out) / "cells"
        self._summaries: dict[str, Summaries] = {}
        self._errors: dict[str, np.ndarray] = {}
        self._answers: dict[tuple[str, str], np.ndarray | None] = {}
        self.unread_answers: dict[str, str] = {}
        """Id of a cell -> why its answers to the test images cannot be read, of those that were asked for."""

    def look(self, record: Record) -> Look:
        """Read all files of a cell's attacks, and return what can be said of it without those that cannot be read.

        Best attacker and worst case are then those of the attacks that are left. A record that was kept without its
        attacks is taken at its word.

        Args:
            record: of the cell.
        """
        folder = self.cells / record.id
        if not self.kept(record):
            return Look(record)
        known, unread = _summaries(folder, record), {}
        for label, one in list(known.items()):
            if isinstance(one, UserError):
                unread[label] = _told(one, folder)
                del known[label]
        left = _without(record, unread)
        if left.attacks and (why := disagreement(folder, left, known)):
            return Look(None, why)
        values, held = {}, {}
        for label in left.attacks:
            try:
                found = judged(folder, [label], known=known)
            except UserError as error:
                unread[label] = _told(error, folder)
            else:
                values, held = values | found[0], held | found[1]
        if not values:
            return Look(None, unread=unread)
        left, self._summaries[record.id] = _without(record, unread), known
        if unread:
            best = suites.best_of(values, held) if record.best_attacker else None
            again = worst_case({label: {k: v.numpy() for k, v in value.items()} for label, value in values.items()})
            left = replace(left, worst_case=WORST.validate_python(again), best_attacker=BEST.validate_python(best))
        self._errors[record.id] = _best(values, held, left)
        return Look(left, unread=unread)

    def kept(self, record: Record) -> bool:
        """Return whether a cell's attacks are there; somebody may have kept its record without them.

        Args:
            record: of the cell.
        """
        folder = self.cells / record.id
        return not alone(folder) or (folder / "attacks").is_dir()

    def answers(self, record: Record, name: str = ANSWERS["accuracy"]) -> np.ndarray | None:
        """Return which test images the network answered right, bool (N,); None where the file is not there or damaged.

        Args:
            record: of the cell.
            name: as of `records.answers`.
        """
        key = record.id, name
        if key not in self._answers:
            folder, self._answers[key] = self.cells / record.id, None
            try:
                self._answers[key] = answers(folder, name)
            except reading.Missing:
                pass  # as in runs of before 0.2, which left none
            except UserError as error:
                self.unread_answers[record.id] = _told(error, folder)
        return self._answers[key]

    def disagreement(self, record: Record) -> str | None:
        """Return in words in what the attacks of a cell are not those of its record; None where they are.

        Args:
            record: of the cell.

        Raises:
            UserError: the summary of an attack is damaged.
        """
        return disagreement(self.cells / record.id, record, self._read(record))

    def errors(self, record: Record) -> np.ndarray:
        """Return the MSE of the best attacker on each attacked image, (N,).

        Where the record names no best attacker, it is the lowest of any attack.

        Args:
            record: of the cell.

        Raises:
            UserError: a file of an attack is missing, empty, damaged, or of another attack than the record.
        """
        if record.id not in self._errors:
            self._errors[record.id] = self._best(record)
        return self._errors[record.id]

    def _best(self, record: Record) -> np.ndarray:
        folder, known = self.cells / record.id, self._read(record)
        if why := disagreement(folder, record, known):
            raise UserError(f"{folder} is no longer what its record says: {why}; {AFRESH}")
        return _best(*judged(folder, record.attacks, known=known), record)

    def _read(self, record: Record) -> Summaries:
        if record.id not in self._summaries:
            self._summaries[record.id] = _sound(_summaries(self.cells / record.id, record))
        return self._summaries[record.id]


def as_recorded(folder: Path, record: Record) -> bool:
    """Return whether a run folder holds all attacks of its record, whole and as the record describes them.

    Of a folder in which somebody kept the record alone, the record is taken at its word.

    Args:
        folder: the run folder.
        record: the record in it.

    Raises:
        UserError: a file of an attack is damaged, or its values of single images are not those of its summary.
    """
    if alone(folder):
        return True
    known = _sound(_summaries(folder, record))
    if known.keys() != record.attacks.keys() or any(lost(folder / "attacks" / k, one) for k, one in known.items()):
        return False
    judged(folder, known, known=known)  # what was cut short or changed is no attack, and none that is made again
    return disagreement(folder, record, known) is None


def alone(folder: Path) -> bool:
    """Return whether a folder holds a record that somebody kept without the run: neither settings nor weights.

    Args:
        folder: the folder of a cell.
    """
    return not any(os.path.lexists(folder / name) for name in ("config.yaml", "model.safetensors"))


def _summaries(folder: Path, record: Record) -> dict[str, Any]:
    """Return the summary of each attack of a record that has left one, or the error where it is damaged."""
    found: dict[str, Any] = {}
    for label in record.attacks:
        path = folder / "attacks" / label / "summary.json"
        if path.is_file():
            try:
                found[label] = reading.read_json(path, reading.ATTACK, AGAIN)
            except UserError as error:
                found[label] = error
    return found


def _sound(found: Mapping[str, Any]) -> Summaries:
    """Return the summaries.

    Raises:
        UserError: one of them is damaged.
    """
    for one in found.values():
        if isinstance(one, UserError):
            raise one
    return found


def _without(record: Record, labels: Container[str]) -> Record:
    return replace(record, attacks={label: one for label, one in record.attacks.items() if label not in labels})


def _told(error: UserError, folder: Path) -> str:
    """Return an error about a file of a cell, without where the cell is."""
    return str(error).replace(f"{folder}{os.sep}", "")


def _best(values: suites.Values, held: suites.Values, record: Record) -> np.ndarray:
    """Return the MSE of the best attacker on each image, or, where none is named, the lowest of any attack."""
    if record.best_attacker is None:
        return suites.worst_case({label: value["mse"] for label, value in values.items()}).numpy()
    return suites.best_values(values, held, "mse").numpy()


def disagreement(folder: Path, record: Record, known: Summaries) -> str | None:
    """Return in words in what the attacks of a run folder are not those of its record; None where they are.

    Args:
        folder: the run folder.
        record: the record in it.
        known: summaries of its attacks.
    """
    for label, attack in record.attacks.items():
        if label in known:
            if what := _differing(record, attack, known[label]):
                return f"its attack {label} was made again and has {what}"
        elif (folder / "attacks" / label).is_dir():  # an attack writes its summary last
            return f"its attack {label} was begun again and not finished"
    return None


def _differing(record: Record, attack: Attacked, summary: Mapping[str, Any]) -> str:
    """Return in what an attack differs from what the record says of it; empty where it does not."""
    stored = summary["attack"]
    if stored != attack.attack and config.renewed(stored, "attacks") != attack.attack:
        return "other settings"
    if summary.get("images_digest") != record.images_digest:
        return "other attacked images"
    # The error of the mean image tells other images to learn from, even for an attack that learns nothing.
    same = all(Interval.from_dict(summary[name]) == getattr(attack, name) for name in FIGURES)
    return "" if same and summary["baseline_mse"] == attack.baseline_mse else "other errors"
