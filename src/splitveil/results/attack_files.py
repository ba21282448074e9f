"""The files of a cell's attacks, which may be of later attacks than its record; each is read once for a report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import config
from ..errors import UserError
from ..evaluation import suites
from ..evaluation.evaluate import lost
from ..statistics.intervals import Interval
from ..storage import reading
from .record_types import Attacked, Record
from .records import AGAIN, judged, per_image

FIGURES = ("mse", "psnr", "ssim")
AFRESH = "run its grid again: it makes what differs anew"

Summaries = Mapping[str, Mapping[str, Any]]
"""Of the attacks of a cell by their label; those are lacking that are not there."""


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
        if record.best_attacker is None:
            values = {label: torch.from_numpy(per_image(folder, label)["mse"]) for label in record.attacks}
            return suites.worst_case(values).numpy()
        return suites.best_values(*judged(folder, record.attacks, known=known), "mse").numpy()

    def _read(self, record: Record) -> Summaries:
        if record.id not in self._summaries:
            self._summaries[record.id] = _summaries(self.cells / record.id, record)
        return self._summaries[record.id]


def as_recorded(folder: Path, record: Record) -> bool:
    """Return whether a run folder holds all attacks of its record, whole and as the record describes them.

    Of a folder in which somebody kept the record alone, the record is taken at its word.

    Args:
        folder: the run folder.
        record: the record in it.

    Raises:
        UserError: the summary of an attack is damaged.
    """
    if alone(folder):
        return True
    known = _summaries(folder, record)
    if known.keys() != record.attacks.keys() or any(lost(folder / "attacks" / k, one) for k, one in known.items()):
        return False
    return disagreement(folder, record, known) is None


def alone(folder: Path) -> bool:
    """Return whether a folder holds a record that somebody kept without the run: neither settings nor weights.

    Args:
        folder: the folder of a cell.
    """
    return not any(os.path.lexists(folder / name) for name in ("config.yaml", "model.safetensors"))


def _summaries(folder: Path, record: Record) -> Summaries:
    found = {}
    for label in record.attacks:
        path = folder / "attacks" / label / "summary.json"
        if path.is_file():
            found[label] = reading.read_json(path, reading.ATTACK, AGAIN)
    return found


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
