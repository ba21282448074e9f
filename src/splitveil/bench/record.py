"""The record of a finished cell: one JSON with everything that a table or a plot needs."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..evaluation import suites
from ..results import records
from ..results.record_types import Epoch
from ..storage import reading

if TYPE_CHECKING:
    from .cells import Cell


def build(
    folder: Path, cell: Cell, *, grid: str, attempts: int, started: float, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the record of a run folder whose training and attacks are done.

    Args:
        folder: the run folder.
        cell: what was asked for.
        labels: the attacks; each must have left ``attacks/LABEL/``. Empty: those of the cell.
        grid: name of the grid.
        attempts: how often the cell was begun.
        started: ``time.time()`` when this attempt began.

    Raises:
        UserError: an attack is missing, or two attacks were scored on different images.
    """
    summary = reading.read_json(folder / "summary.json", reading.RUN, records.AGAIN)
    curve = reading.read_lines(folder / "metrics.jsonl", reading.EPOCH, records.AGAIN)
    labels = labels or tuple(cell.attacks)
    left = {label: folder / "attacks" / label / "summary.json" for label in labels}
    found = {label: reading.read_json(path, reading.ATTACK, records.AGAIN) for label, path in left.items()}
    digests = {attack.get("images_digest") for attack in found.values()}
    if len(digests) > 1:
        raise UserError(
            f"{folder}: its attacks were scored on different images ({', '.join(sorted(map(str, digests)))}); "
            "delete its folder attacks/ and run the grid again"
        )
    values = {label: records.per_image(folder, label) for label in labels}
    return {
        "schema": records.SCHEMA,
        "id": cell.id,
        "grid": grid,
        "axes": dict(cell.axes),
        "config": cell.settings.model_dump(mode="json", exclude={"root"}),
        "defense": [records.short(spec, "defenses") for spec in cell.settings.defense],
        "protocol": next(iter(found.values()))["protocol"],
        "attacker_size": cell.attacker_size,
        "attacked": cell.attacked,
        **{key: summary[key] for key in ("accuracy", "epoch", "leakage_nats", "wire", "parameters")},
        "retrained_accuracy": summary.get("retrained_accuracy"),
        **_trained_as(folder, summary),
        "timings": {
            "train": summary["seconds"],
            "tail": summary.get("retraining", {}).get("seconds", 0.0),
            "attacks": {label: attack["seconds"] for label, attack in found.items()},
            "total": time.time() - started,
        },
        "attacks": {label: _scores(attack) for label, attack in found.items()},
        "worst_case": records.worst_case(values),
        "best_attacker": suites.best_of(*records.judged(folder, labels)),
        "images_digest": digests.pop(),
        "test_digest": summary.get("test_digest"),
        "curve": [{key: row[key] for key in Epoch.__annotations__} for row in curve],
        "environment": summary["environment"],
        "git": git_state(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "attempts": attempts,
    }


def _scores(attack: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record keeps of an attack's summary.

    Shares that were read are there only where it was asked, the error of the mean image of the class where it is known.
    """
    kept = ("attack", "mse", "psnr", "ssim", "baseline_mse", "flags", "seconds")
    more = ("reidentified", "recognized", "class_mean_mse")
    return {key: attack[key] for key in (*kept, *(key for key in more if key in attack))}


def _trained_as(folder: Path, summary: dict[str, Any]) -> dict[str, str]:
    """Name the cell whose training this one shares; earlier versions copied its files and said so in the summary."""
    weights = folder / "model.safetensors"
    other = weights.readlink().parent.name if weights.is_symlink() else summary.get("trained_as")
    return {"trained_as": other} if other else {}


def git_state() -> dict[str, Any] | None:
    """Return the commit of the code that runs and whether it was changed since; None without a git repository."""
    here = Path(__file__).parent

    def git(*words: str | Path) -> str:
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # a .venv lies in somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", here.parent))}
    except (OSError, subprocess.CalledProcessError):
        return None
