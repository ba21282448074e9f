"""Snapshots: the weights of every N-th epoch of a training, kept in its run folder."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from ..errors import UserError
from ..runs import EVERY, SNAPSHOTS
from ..storage import reading
from ..storage.files import write_json

NAME = re.compile(r"epoch-(\d{3,})\.safetensors")


class _Plan(TypedDict):
    """The content of `EVERY`."""

    every: reading.Count


_PLAN = TypeAdapter(_Plan)


def place(run: Path, epochs: int) -> Path:
    """Return the file of the weights after so many epochs.

    Args:
        run: run folder.
        epochs: finished epochs, from 1.

    >>> place(Path("runs/cem"), 3)
    PosixPath('runs/cem/snapshots/epoch-003.safetensors')
    """
    return run / SNAPSHOTS / f"epoch-{epochs:03d}.safetensors"


def due(done: int, every: int, epochs: int) -> bool:
    """Return whether the weights are kept after ``done`` of the training's epochs: every N-th and the last are.

    Args:
        done: finished epochs, from 1.
        every: N; 0: none are kept.
        epochs: length of the training.

    >>> [done for done in range(1, 8) if due(done, 3, 7)]
    [3, 6, 7]
    """
    return every > 0 and (done % every == 0 or done == epochs)


def kept(run: Path) -> dict[int, Path]:
    """Return the snapshots of a run by the number of epochs after which they were taken, in their order.

    Args:
        run: run folder.
    """
    files = (run / SNAPSHOTS).glob("epoch-*.safetensors") if (run / SNAPSHOTS).is_dir() else ()
    found = {int(match[1]): path for path in files if (match := NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def agreed(run: Path, every: int | None, epochs: int) -> int:
    """Return N of a training that begins or goes on: as it was begun, whether or not the command says so again.

    Args:
        run: run folder.
        every: what is asked for; None: nothing is.
        epochs: length of the training.

    Raises:
        UserError: a number out of range, another one than the training was begun with, or one that comes too late.
    """
    if every is not None and not 1 <= every <= epochs:
        raise UserError(f"--snapshots is {every}; expected 1 to {epochs}, the epochs of the training")
    path = run / SNAPSHOTS / EVERY
    if path.is_file():
        begun = reading.read_json(path, _PLAN, "train the run again in another --out")["every"]
        if every not in (None, begun):
            raise UserError(
                f"{run} was begun with --snapshots {begun}, now {every}; resume it without, or use another --out"
            )
        return begun
    if every is not None and ((run / "summary.json").is_file() or (run / "checkpoint" / "last.pt").is_file()):
        raise UserError(
            f"{run} was begun without --snapshots, and the weights of its epochs are gone; "
            "train it again in another --out"
        )
    return every or 0


def note(run: Path, every: int) -> None:
    """Write N down, so that a resumed training keeps the same snapshots.

    Args:
        run: run folder.
        every: N; 0: nothing is written.
    """
    if every:
        write_json(run / SNAPSHOTS / EVERY, {"every": every})
