"""The driver of a grid, which starts workers until every cell is done or given up, and reports the progress.

It reads all it knows from the bench folder, so it may be killed and started again, and several may run at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from ..errors import UserError, unknown
from ..results.record_types import GRIDS, Failure, Record
from ..results.records import AGAIN, failure
from ..storage import reading
from ..storage.files import whole_files, write_json
from ..storage.reading import Missing
from . import checks
from .executors.ray_tasks import OnRay
from .executors.submitit_jobs import QUEUED, Executor, Job, Local, Slurm, cores, room, slurm_parameters
from .folder import GridFolder, finished
from .lease import CellLease, Owner
from .worker import Attempts, Worker, close_attempt

if TYPE_CHECKING:
    from .cells import Cell, Grid

EXECUTORS = ("local", "slurm", "ray")
POLL = 0.3
"""Seconds between two checks of the folder."""
PATIENCE = 3
"""Consecutive idle workers, while cells are free, after which the grid is aborted."""
LINGER = 10.0
"""Seconds that workers are given to end, when nothing is left to do or they are stopped."""

THREADS = 1024
"""Of one cell at most: with far more torch ends without a word."""
LONGEST = 150
"""Letters of a grid's name that become its file's; a file system takes 255 with what is added."""


@dataclass(frozen=True)
class State:
    """How a grid stands.

    Attributes:
        done: records by cell; failed: notes of failed cells.
        running: cells that a living process has, this command's or another's.
        own: those of them that this command's workers have.
        free: cells that a worker may take.
        waiting: the others, whose training another running cell shares.
    """

    done: dict[str, Record]
    failed: dict[str, Failure]
    running: dict[str, Owner]
    own: frozenset[str]
    free: tuple[Cell, ...]
    waiting: tuple[Cell, ...] = ()


def run_grid(
    grid: Grid,
    out: str | Path,
    *,
    on: str = "local",
    jobs: int | None = None,
    retries: int = 2,
    threads: int = 1,
    address: str | None = None,
    gpus_per_cell: float | None = None,
    slurm: Sequence[str] = (),
    watch: Callable[[State], None] | None = None,
    command: str = "",
) -> State:
    """Run every cell of ``grid`` that is not done in the folder ``out``.

    Cells that failed before are tried again. A cell that another command on the same folder is at is waited for.

    Args:
        grid: the cells.
        out: the bench folder; it is made where it is missing.
        on: local (processes of this machine), slurm or ray.
        jobs: cells at once; None: as many as there is room for.
        retries: a cell that raises an error is tried so many times more.
        threads: of each cell. Results depend on their number in the last digits, so keep to one within a grid.
        address: of a Ray cluster.
        gpus_per_cell: part of a GPU that a cell gets from Ray.
        slurm: ``key=value`` for sbatch.
        watch: called with the state about three times a second.
        command: that runs the grid again; kept for the report.

    Raises:
        UserError: a folder that cannot be written, an unknown executor or one that is not there, numbers below 1,
            images that this machine lacks though it shall train, or workers that end before they begin.
    """
    check_options(on, jobs=jobs, retries=retries, threads=threads, gpus_per_cell=gpus_per_cell, slurm=slurm)
    out = Path(out).absolute()
    named = _named_margin(grid, out)
    driver = Driver(grid, out, retries, watch or (lambda _: None))
    # Other machines may have images that this one has not.
    if driver.begin(checks.images if on == "local" else None):
        terms = {"threads": threads, "address": address, "gpus_per_cell": gpus_per_cell, "slurm": slurm}
        executor = _executor(on, out / "logs" / "workers", _devices(grid), **terms)
        worker = driver.worker(threads, executor.limit, parent=os.getpid() if on == "local" else None)
        try:
            describe(grid, out, command, named)
            driver.run(executor, worker, jobs or executor.capacity())
        finally:
            executor.close()
    return State(driver.done, driver.failed, {}, frozenset(), ())


def _executor(
    on: str,
    logs: Path,
    devices: int,
    *,
    threads: int,
    address: str | None,
    gpus_per_cell: float | None,
    slurm: Sequence[str],
) -> Executor:
    if on == "local":
        return Local(logs, threads=threads, devices=devices)
    if on == "slurm":
        return Slurm(logs, threads=threads, parameters=slurm)
    return OnRay(address=address, threads=threads, devices=devices, gpus_per_cell=gpus_per_cell)


def _devices(grid: Grid) -> int:
    return max(cell.settings.devices for cell in grid.cells)


def at_once(grid: Grid, on: str, threads: int) -> tuple[int, str]:
    """Return how many cells run at once by default, found without starting anything, and a note about it.

    >>> from splitveil.bench.grid import load_grid
    >>> at_once(load_grid("smoke"), "slurm", threads=1)
    (6, '')
    """
    most, note = QUEUED if on == "slurm" else room(threads, _devices(grid)), ""
    if on == "ray":
        note = (
            "what the Ray cluster has room for is not known before it runs: at once is what this machine has room for"
        )
    return min(len(grid.cells), most), note


def _named_margin(grid: Grid, out: Path) -> bool:
    """Return whether the grid's margin was named before its first cell was done, or is named now.

    Raises:
        UserError: another one was.
    """
    path = out / "grids" / f"{file_name(grid.name)}.json"
    folder = GridFolder(out)
    records = (place(cell.id) for cell in grid.cells for place in (folder.record, folder.set_aside))
    if not path.is_file() or not any(record.is_file() for record in records):
        return True
    earlier = reading.read_json(path, GRIDS, AGAIN).margin
    if earlier not in (None, grid.margin):
        raise UserError(
            f"the margin of {grid.name} was {earlier:g} when its first cells were trained, now {grid.margin:g}; it is "
            "named before results are seen: keep it, or use another --out"
        )
    return earlier is not None


def describe(grid: Grid, out: Path, command: str = "", named: bool = True) -> None:
    """Leave which cells the grid has, and the command that runs it: the name of a run folder says nothing to a reader.

    Args:
        grid: the cells.
        out: the bench folder.
        command: that runs the grid again.
        named: whether the margin was named before the first cell was done; only then it is kept.

    Raises:
        UserError: the folder cannot be written.
    """
    cells = {cell.id: cell.axes for cell in grid.cells}
    about = {"name": grid.name, "description": grid.description, "command": command}
    about |= {"margin": grid.margin} if named else {}
    write_json(out / "grids" / f"{file_name(grid.name)}.json", about | {"cells": cells})


def file_name(name: str) -> str:
    """Return a file name, without its ending, that no other grid has.

    >>> file_name("paper/cifar10"), file_name("paper-cifar10")
    ('paper%2Fcifar10', 'paper-cifar10')
    """
    quoted = quote(name, safe=" ")
    if len(quoted) <= LONGEST:
        return quoted
    return f"{quoted[:LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Started:
    """A worker, its slot, and what was free, over and attempted when it was started."""

    job: Job
    slot: int
    free: frozenset[str]
    over: int
    attempts: int


class Driver:
    """One command on one folder: `begin`, then `run`; `done` and `failed` hold what it comes to."""

    def __init__(self, grid: Grid, out: Path, retries: int, watch: Callable[[State], None]):
        self.grid, self.out, self.retries, self.watch = grid, out, retries, watch
        self.folder = GridFolder(out)
        self.done: dict[str, Record] = {}
        self.failed: dict[str, Failure] = {}
        self._leases: dict[str, CellLease] = {}
        self._started: dict[str, Started] = {}
        self._seen: set[str] = set()
        self._idle = 0

    def begin(self, check: Callable[[Sequence[Cell]], None] | None = None) -> bool:
        """Return whether there is something to do; cells that failed in an earlier command get their attempts anew.

        ``check`` is given the cells that are not done, before anything is written.
        """
        self.done = {cell.id: record for cell in self.grid.cells if (record := finished(cell, self.out))}
        left = [cell for cell in self.grid.cells if cell.id not in self.done]
        if check:
            check(left)
        for cell in left:
            attempts = self.folder.attempts(cell.id)
            # A cell that another command is at is that one's to count.
            if attempts.is_file() and (lock := self._lease(cell)).claim():
                with lock:
                    write_json(attempts, asdict(replace(Attempts.read(attempts), counted=0, running=False)))
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self.folder.failed(cell.id).unlink()
        return bool(left)

    def worker(self, threads: int, limit: int | None, parent: int | None) -> Worker:
        """Return what every worker is told; only its name is missing."""
        cells = tuple(cell for cell in self.grid.cells if cell.id not in self.done)
        return Worker(cells, self.out, self.grid.name, self.retries, "", threads, limit, parent)

    def run(self, executor: Executor, worker: Worker, most: int) -> None:
        """Keep up to ``most`` workers until no cell is open; however it ends, no worker is left.

        Raises:
            UserError: workers end before they begin.
        """
        try:
            while True:
                start, ended = time.monotonic(), self._reap()
                state = self.state()
                self.watch(state)
                if not (state.free or state.running or state.waiting):
                    self._wait(LINGER)
                    return
                self._judge(ended, state)
                # Those that have no cell yet are about to take one.
                coming = len(self._started) - len({state.running[cell].job for cell in state.own})
                room = len({cell.trained_alike for cell in state.free}) - coming
                for _ in range(min(most - len(self._started), room)):
                    self._start(executor, worker, state)
                time.sleep(max(POLL, 4 * (time.monotonic() - start)))
        finally:
            self._stop()

    def state(self) -> State:
        """Return how the grid stands, read from its folder."""
        running: dict[str, Owner] = {}
        free: list[Cell] = []
        waiting: list[Cell] = []
        for cell in self.grid.cells:
            if cell.id in self.done or self._over(cell):
                continue
            if owner := self._lease(cell).owner():
                if owner.cell in ("", cell.id):
                    running[cell.id] = owner
                else:
                    waiting.append(cell)
            elif not self._over(cell) and not self._given_up(cell):  # it may have ended in between
                free.append(cell)
        own = frozenset(cell for cell, owner in running.items() if owner.job in self._started)
        self._seen |= {running[cell].job for cell in own}
        return State(self.done, self.failed, running, own, tuple(free), tuple(waiting))

    def _lease(self, cell: Cell) -> CellLease:
        return self._leases.setdefault(cell.trained_alike[0], CellLease(self.folder.lock(cell)))

    def _over(self, cell: Cell) -> bool:
        if record := finished(cell, self.out):
            self.done[cell.id] = record
        self.failed.pop(cell.id, None)
        if not record:
            with contextlib.suppress(Missing):  # another command may be trying it again
                self.failed[cell.id] = failure(self.folder.failed(cell.id))
        return cell.id in self.done or cell.id in self.failed

    def _given_up(self, cell: Cell) -> bool:
        """Return whether a cell whose process has gone has no attempt left, and record that it failed."""
        path = self.folder.attempts(cell.id)
        if Attempts.read(path).counted <= self.retries:
            return False
        if (lock := self._lease(cell)).claim():
            with lock:
                close_attempt(cell, self.out, self.retries)
        return self._over(cell)

    def _start(self, executor: Executor, worker: Worker, state: State) -> None:
        taken = {started.slot for started in self._started.values()}
        slot = next(number for number in range(len(taken) + 1) if number not in taken)
        name = secrets.token_hex(4)
        cells = tuple(cell for cell in worker.cells if cell.id not in self.done)
        job = executor.start(replace(worker, cells=cells, token=name), name, slot)
        free = frozenset(cell.id for cell in state.free)
        self._started[name] = Started(job, slot, free, len(self.done) + len(self.failed), self._attempts())

    def _attempts(self) -> int:
        """Return the number of attempts at all cells that are not done."""
        return sum(Attempts.read(path).total for path in whole_files(self.out / "tries", "*.json"))

    def _reap(self) -> dict[str, Started]:
        """Take out the workers that have ended; the cells of one that died elsewhere are free at once."""
        ended = {name: started for name, started in self._started.items() if started.job.ended()}
        for name in ended:
            del self._started[name]
            for lock in self._leases.values():
                lock.break_(name)
        return ended

    def _judge(self, ended: dict[str, Started], state: State) -> None:
        """Give up where workers come and go without taking what is free."""
        free = {cell.id for cell in state.free}
        for name, started in ended.items():
            problem = started.job.problem()
            # One that dies at once may never have been seen with its lock, but its attempt is written down.
            took = name in self._seen or len(self.done) + len(self.failed) > started.over
            took = took or self._attempts() > started.attempts
            self._idle = 0 if took else self._idle + bool(free & started.free)
            if self._idle >= PATIENCE:
                why = problem or f"they found none free: every machine must see {self.out}"
                raise UserError(f"{PATIENCE} workers in a row ended without taking a cell: {why}")

    def _stop(self) -> None:
        """End the workers, and wait until they have: the next command should find their cells free."""
        for started in self._started.values():
            started.job.stop()
        self._wait(LINGER)

    def _wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._started and time.monotonic() < deadline:
            for started in self._started.values():
                started.job.ended()  # a process of our own counts as alive until it is awaited
            if not self.state().own:
                for started in self._reap().values():
                    started.job.problem()  # it also clears up
            time.sleep(POLL / 3)


def check_options(
    on: str,
    *,
    jobs: int | None,
    retries: int,
    threads: int,
    gpus_per_cell: float | None,
    slurm: Sequence[str],
) -> None:
    """Refuse options that cannot be, before anything else is done.

    Raises:
        UserError: an unknown executor or parameter of Slurm, numbers that are too small.
    """
    if on not in EXECUTORS:
        raise unknown("executor", on, EXECUTORS)
    for name, value, least in (("jobs", jobs, 1), ("threads", threads, 1), ("retries", retries, 0)):
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}; expected at least {least}")
    if on == "local" and threads > (here := cores()):
        raise UserError(f"--threads is {threads}; this machine has {here} cores; expected 1 to {here}")
    if threads > THREADS:
        raise UserError(f"--threads is {threads}; expected the cores of one cell, at most {THREADS}")
    if gpus_per_cell is not None and not 0 <= gpus_per_cell < math.inf:
        raise UserError(f"--gpus-per-cell is {gpus_per_cell}; expected 0 or more, such as 0.25 for four cells on a GPU")
    if slurm:
        slurm_parameters(slurm)
