"""The worker process of a grid: it takes free cells, one after the other, and counts its attempts at them.

Workers and drivers share nothing but the bench folder: a cell is done, failed, somebody's or free by the files in it.
So any number of both may come, be killed and come again.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from ..nn.allocator import keep_memory
from ..results import records
from ..storage import reading
from ..storage.files import write_json
from .cell import run_cell
from .folder import GridFolder, finished, mark
from .image_sets import ImageSets
from .lease import CellLease

if TYPE_CHECKING:
    from .cells import Cell

KILLED = "its process was killed from outside: out of memory, or by hand"
WATCH = 0.5
"""Seconds between two checks whether the driver lives."""


class LockLost(Exception):
    """Raised where the cell belongs to another process now."""


@dataclass(frozen=True)
class Attempts:
    """Attempts at a cell that is not done; ``OUT/tries/ID.json``.

    Attributes:
        total: all of them. counted: those that count against ``--retries``, since the command was last given.
        running: whether one was begun and has not said how it ended.
        mark: how far the cell was when it began.
        error: how the last one ended.
    """

    total: int = 0
    counted: int = 0
    running: bool = False
    mark: str = ""
    error: str = ""

    @classmethod
    def read(cls, path: Path) -> Attempts:
        """Return the attempts at a cell; none without the file."""
        try:
            return reading.read_json(path, TypeAdapter(cls), "delete it, and the attempts are counted anew")
        except reading.Missing:
            return cls()

    def begun(self, now: str) -> Attempts:
        """Return the attempts with one more, which is running."""
        return replace(self, total=self.total + 1, counted=self.counted + 1, running=True, mark=now)

    def settled(self, now: str) -> Attempts:
        """Return the attempts after the last one's process has died: it counts only if it made no progress.

        A job that is cut off by its time limit again and again, but goes on from its checkpoint, is not a failing one.

        >>> gone = Attempts().begun("3 epochs")
        >>> gone.settled("3 epochs").counted, gone.settled("5 epochs").counted
        (1, 0)
        """
        if not self.running:
            return self
        return replace(self, counted=self.counted - (now != self.mark), running=False, error=KILLED)

    def ended(self, error: str) -> Attempts:
        """Return the attempts after the last one raised an error."""
        return replace(self, running=False, error=error)


@dataclass(frozen=True)
class Worker:
    """One process that takes cells until none is free; called where it shall run, so it can be pickled.

    Attributes:
        cells, out, grid, retries: what is to be done; of a cell, 1 + retries attempts are made.
        token: by which its driver knows the locks it holds.
        threads: of each computation; the figures depend on their number.
        limit: end after so many cells.
        parent: number of the process with which to end.
    """

    cells: tuple[Cell, ...]
    out: Path
    grid: str
    retries: int
    token: str
    threads: int = 1
    limit: int | None = None
    parent: int | None = None

    def __call__(self) -> int:
        """Take cells until none is free, and return how many were taken."""
        if self.parent:
            end_with(self.parent)
        keep_memory()
        import torch

        torch.set_num_threads(self.threads)
        over: set[str] = set()
        leases: dict[str, CellLease] = {}
        images = ImageSets()
        taken, sound = 0, True
        while sound and (self.limit is None or taken < self.limit) and (got := self._take(over, leases)):
            taken += 1
            cell, lock, attempts = got
            with lock:
                well = self._attempt(cell, lock, attempts, images)
            # An error on a GPU may leave it unusable for this process: the next attempt gets a new one.
            sound = well or not torch.cuda.is_initialized()
        return taken

    def checkpoint(self) -> Any:
        """Return what submitit queues when Slurm's time is up: the same worker, which goes on from the files."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _take(self, over: set[str], leases: dict[str, CellLease]) -> tuple[Cell, CellLease, Attempts] | None:
        """Return a free cell and its lock; ``over`` are the cells found done or failed."""
        folder = GridFolder(self.out)
        for cell in self._order(folder, over):
            lock = leases.setdefault(cell.trained_alike[0], CellLease(folder.lock(cell)))
            if not _over(cell, self.out) and lock.claim(self.token, cell.id):
                # Between the two it may have been finished by another, or its attempts were used up.
                if not _over(cell, self.out) and (attempts := close_attempt(cell, self.out, self.retries)):
                    return cell, lock, attempts
                lock.release()
            if _over(cell, self.out):
                over.add(cell.id)
        return None

    def _order(self, folder: GridFolder, over: set[str]) -> Iterator[Cell]:
        """Yield the cells to look at, last those that were tried before."""
        tried = []
        for cell in self.cells:
            if cell.id in over:
                continue
            if folder.attempts(cell.id).is_file():
                tried.append(cell)
            else:
                yield cell
        yield from tried

    def _attempt(self, cell: Cell, lock: CellLease, attempts: Attempts, images: ImageSets) -> bool:
        """Run the cell, whose lock is held; return whether that succeeded."""
        folder = GridFolder(self.out)
        attempts = attempts.begun(mark(folder.run(cell.id)))
        write_json(folder.attempts(cell.id), asdict(attempts))

        def check() -> None:
            if lock.lost:
                raise LockLost(f"cell {cell.id} was taken over: this process showed no sign of life for too long")

        with _logged(folder.log(cell.id), f"attempt {attempts.total} at {cell.id}") as log:
            try:
                known = {"grid": self.grid, "attempts": attempts.total, "images": images.of(cell.settings)}
                run_cell(cell, self.out, **known, check=check)
            except LockLost as error:
                log.write(f"{error}\n")
                return False
            except Exception as error:
                traceback.print_exc(file=log)
                line = " ".join(f"{type(error).__name__}: {error}".split())
                write_json(folder.attempts(cell.id), asdict(attempts.ended(line)))
                close_attempt(cell, self.out, self.retries)
                return False
        for path in (folder.attempts(cell.id), folder.failed(cell.id)):
            path.unlink(missing_ok=True)
        return True


def close_attempt(cell: Cell, out: Path, retries: int) -> Attempts | None:
    """Return the attempts at a cell whose lock is held; where they are used up, record the failure and return None."""
    folder = GridFolder(out)
    attempts = Attempts.read(folder.attempts(cell.id)).settled(mark(folder.run(cell.id)))
    if attempts.counted <= retries:
        return attempts
    note = {
        "schema": records.SCHEMA,
        "id": cell.id,
        "axes": dict(cell.axes),
        "config": cell.settings.model_dump(mode="json", exclude={"root"}),
        "error": attempts.error,
        "log": folder.log(cell.id).relative_to(out).as_posix(),
        "attempts": attempts.total,
    }
    write_json(folder.failed(cell.id), note)
    return None


def end_with(parent: int) -> None:
    """End this process once the process ``parent`` has ended, or the one between them: nobody would know of its work.

    Files are written whole and the lock of a dead process is free, so that it may end anywhere.
    """
    above = os.getppid()

    def watch() -> None:
        while alive(parent) and os.getppid() == above:
            time.sleep(WATCH)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def alive(process: int) -> bool:
    """Return whether a process of this machine and this user runs; one that has ended and was not awaited does not.

    >>> alive(os.getpid())
    True
    """
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # it has just ended, or the system is not Linux
        return not Path("/proc/self/stat").exists()
    return state[0] not in "ZX"


def _over(cell: Cell, out: Path) -> bool:
    return GridFolder(out).failed(cell.id).is_file() or finished(cell, out) is not None


@contextlib.contextmanager
def _logged(path: Path, title: str) -> Iterator[Any]:
    """Send everything that is printed, by libraries in C too, to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as log:
        when = datetime.now(UTC).isoformat(timespec="seconds")
        log.write(f"--- {title}, {when}, process {os.getpid()} on {socket.gethostname()}\n")
        sys.stdout.flush()
        sys.stderr.flush()
        saved = {number: os.dup(number) for number in (1, 2)}
        try:
            for number in saved:
                os.dup2(log.fileno(), number)
            yield log
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)
