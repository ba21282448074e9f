"""`splitveil bench`."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Column, Table

from ..errors import UserError
from ..progress_bars import Lines
from ._shared import LOOK, MaybePlace, PlaceText, app, duration, error_console, out_console, say

if TYPE_CHECKING:
    from ..bench.cells import Cell, Grid
    from ..bench.driver import State
    from ..results.record_types import Record


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """The place where cells run, and how many at once.

    Args:
        on: local (processes of this machine), slurm or ray.
        jobs: Cells at once; by default one for each core or GPU, for Ray as many as the cluster has room for, for Slurm
            16.
        retries: Further attempts at a cell that raises an error.
        threads: Cores for each cell. Keep to one number within a grid: figures depend on it in their last digits.
        gpus_per_cell: With Ray: GPUs for each cell; with 0.25 four share one.
        address: With Ray: address of a running cluster, or auto.
        slurm: With Slurm: key=value for sbatch, may be repeated: partition=gpu, gpus_per_node=1, time=1440 (minutes).
    """

    on: str = "local"
    jobs: int | None = None
    retries: int = 2
    threads: int = 1
    gpus_per_cell: float | None = None
    address: str | None = None
    slurm: Annotated[list[str] | None, Parameter(negative="")] = None

    def checked(self) -> dict[str, Any]:
        """Return what `run_grid` and `check_options` take.

        Raises:
            UserError: an option of another executor, or a number that cannot be.
        """
        from ..bench.driver import check_options

        of = {"address": "ray", "gpus_per_cell": "ray", "slurm": "slurm"}
        for name, executor in of.items():
            if getattr(self, name) is not None and self.on != executor:  # it would silently do nothing
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} is for --on {executor}, but it runs on {self.on}; leave it out")
        terms = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("on", "address")}
        terms["slurm"] = self.slurm or ()
        check_options(self.on, **terms)
        return terms


@app.command
def bench(
    grid: PlaceText,
    *,
    out: MaybePlace = None,
    plan: Annotated[bool, Parameter(negative="")] = False,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    baseline: str | None = None,
    root: MaybePlace = None,
    margin: float | None = None,
    where: Where | None = None,
) -> None:
    """Train and attack every cell of a grid into OUT/cells/ID; finished parts are not done again.

    It may be stopped or killed at any moment: the same command goes on. Exit code 1: some cells failed.

    Args:
        grid: YAML file of a grid (docs/bench.md), or a preset: smoke, paper/cifar10, paper/figure4, ...
        out: Folder of the cells and their records; needed unless --plan or --dry-run is all.
        plan: Only show the cells and the hours, disk and memory that they take, from each kind of them tried for a
            moment.
        dry_run: Only try each kind of cell: two epochs on a few hundred images, two steps of its attacks; nothing is
            kept.
        baseline: noise adds the sweep of noise without CEM, against which every defense is compared.
        root: Folder of the images, in place of the grid's.
        where: Executor of the cells.
        margin: Loss of accuracy, in points, that is to be excluded before accuracy is called kept; 1 unless the grid
            says
            another. It is kept with the grid, and cannot be changed once a cell is done.
    """
    from ..bench.driver import run_grid
    from ..bench.grid import load_grid

    where = where or Where()
    terms = where.checked()
    loaded = load_grid(grid, baseline=_sigmas(baseline), root=root, margin=margin)
    _say_superseded(loaded)
    if plan:
        _show_plan(loaded, out, where)
    if dry_run:
        _show_rehearsal(loaded, where.threads)
    if plan or dry_run:
        return
    if out is None:
        raise UserError("where to? give --out FOLDER, or --plan or --dry-run to only see what the grid takes")
    threads = where.threads if where.threads > 1 else None
    command = _command(grid, out, baseline=baseline, root=root, margin=margin, threads=threads)
    with Board(loaded, out) as board:
        state = run_grid(loaded, out, on=where.on, address=where.address, **terms, watch=board, command=command)
    out_console.print(_table(loaded, out, state))
    _show_failed(out, state)


def _say_superseded(grid: Grid) -> None:
    """Print a note where the cells are attacked by a suite that a stronger one has replaced."""
    from ..evaluation import suites

    found = []
    for name in suites.SUPERSEDED:
        specs = {label: spec.resolve("attacks") for label, spec in suites.named(name).items()}
        if any(cell.attacks == specs for cell in grid.cells):
            found.append(name)
    if found:  # two versions may have the same attacks, and a cell does not know by which name it got them
        also = f" ({', '.join(found[1:])} has the same attacks)" if found[1:] else ""
        say(suites.superseded(found[0]) + also)


def _command(grid: str, out: Path, **options: object) -> str:
    """Return the command line for the same cells with the same figures.

    >>> _command("my grid.yaml", Path("runs/x"), baseline="noise", root=None)
    "splitveil bench 'my grid.yaml' --out runs/x --baseline noise"
    """
    given = [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    return shlex.join(["splitveil", "bench", grid, "--out", str(out), *given])


def _sigmas(baseline: str | None) -> tuple[float, ...] | None:
    from ..bench.grid import BASELINE_SIGMAS

    if baseline not in (None, "noise"):
        raise UserError(f"--baseline is '{baseline}'; expected noise: the sweep of noise without CEM")
    return BASELINE_SIGMAS if baseline else None


def _show_rehearsal(grid: Grid, threads: int) -> None:
    import torch

    from .. import progress_bars
    from ..bench.forecast import rehearse

    torch.set_num_threads(threads)
    with progress_bars.bars() as bar:
        task = bar.add_task("trying", total=None, note="")
        found = rehearse(grid, progress=lambda done, total: bar.update(task, completed=done, total=total))
    table = Table("training", "cells", "loss", "attacks", "seconds", title=escape(f"{grid.name}: dry run"))
    for kind in found.values():
        labels = next(iter(kind.attacks.values()))
        figures = (f"{kind.loss:.3g}", ", ".join(labels), f"{kind.seconds:.0f}")
        table.add_row(escape(kind.name), str(kind.cells), *map(escape, figures))
    out_console.print(table)
    say(f"each of the {len(found)} kinds of {len(grid.cells)} cells was tried; nothing is kept")


def _show_plan(grid: Grid, out: Path | None, where: Where) -> None:
    from .. import progress_bars
    from ..bench import forecast
    from ..bench.driver import at_once

    on, threads = where.on, where.threads
    most, about = (where.jobs, "") if where.jobs else at_once(grid, on, threads)
    with progress_bars.bars() as bar:
        task = bar.add_task("trying", total=None, note="")
        show = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
        found = forecast.estimate(grid, out, jobs=most, threads=threads, here=on == "local", progress=show)
    first, *others = forecast.COLUMNS
    heading = escape(f"{grid.name}: {grid.description}" if grid.description else grid.name)
    table = Table(Column(first, overflow="fold", min_width=16), *others, title=heading, **LOOK)
    *rows, last = found.rows()
    for row in rows:
        table.add_row(*map(escape, row))
    table.add_section()
    table.add_row(*last)
    out_console.print(table)
    cells = found.total("cells")
    left = cells - found.total("done")
    say(f"{left} of {cells} cells to do: about {duration(3600 * found.hours)}, {found.jobs} at once")
    for note in (*found.notes, *([about] if about else [])):
        say(f"note: {note}")


def _table(grid: Grid, out: Path, state: State) -> Table:
    """Return a table of all cells; a column for each axis where there is room, else one for all, and no seconds.

    Each row is one training; the caption says how many the configurations have.
    """
    names = list(dict.fromkeys(name for cell in grid.cells for name in cell.axes))
    heading = escape(f"{grid.name}: {out}")
    table = _empty(heading, names, ["seconds"], _caption(grid))
    for cell in grid.cells:
        figures = _figures(state.done.get(cell.id))
        table.add_row(cell.id, *(escape(str(cell.axes.get(name, ""))) for name in names), *figures)
    if out_console.measure(table, options=out_console.options.update(max_width=10_000)).maximum <= out_console.width:
        return table
    table = _empty(heading, ["axes"], [], _caption(grid))
    for cell in grid.cells:
        *figures, _ = _figures(state.done.get(cell.id))
        table.add_row(cell.id, escape(title(cell)), *figures)
    return table


def _empty(heading: str, axes: list[str], more: list[str], caption: str) -> Table:
    # What is cut off or broken cannot be copied or read: only axes are folded.
    about = [Column(escape(name), overflow="fold") for name in axes]
    whole = [Column(name, no_wrap=True) for name in ("cell", "accuracy %", "retrained %", "MSE", *more)]
    columns = (whole[0], *about, *whole[1:])
    return Table(*columns, title=heading, caption=caption, **LOOK)


def _caption(grid: Grid) -> str:
    """Return what the brackets cover, and how many seeds there are.

    >>> from splitveil.bench.grid import load_grid
    >>> _caption(load_grid("smoke"))
    'each row is one training, brackets over its images; seeds of each configuration: 2'
    """
    trainings = Counter(cell.settings.model_dump_json(exclude={"seed", "root", "devices"}) for cell in grid.cells)
    seeds = " to ".join(dict.fromkeys(map(str, (min(trainings.values()), max(trainings.values())))))
    return f"each row is one training, brackets over its images; seeds of each configuration: {seeds}"


def _figures(record: Record | None) -> tuple[str, str, str, str]:
    """Return both accuracies, the best attacker's error and the seconds of a cell, in as many digits as one reads."""
    if record is None:
        return "[red]failed[/red]", "", "", ""
    accuracy, error = escape(f"{record.accuracy.scaled(100):.1f}"), escape(f"{record.attacker.mse:.3g}")
    retrained = f"{100 * record.retrained_accuracy.mean:.1f}" if record.retrained_accuracy else ""
    return accuracy, retrained, error, f"{record.timings.work:.0f}"


def _show_failed(out: Path, state: State) -> None:
    how = f"; read them with: splitveil report {shlex.quote(str(out))}" if state.done else ""
    say(f"{len(state.done)} cells done, {len(state.failed)} failed{how}")
    for cell, note in state.failed.items():
        error_console.print(f"[red]failed[/red] {cell}: {escape(note.error)}", soft_wrap=True, highlight=False)
        error_console.print(f"  its log: {escape(str(out / (note.log or '')))}", soft_wrap=True, highlight=False)
    if state.failed:
        raise SystemExit(1)


class Board:
    """Progress on standard error, bars if it is a terminal; enter it with ``with`` and call it with a `State`."""

    def __init__(self, grid: Grid, out: Path, console: Console | None = None):
        from ..bench.folder import GridFolder

        console = console or Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bars = Progress(*columns, console=console) if console.is_terminal else Lines(console.file)
        self._cells, self._folder = {cell.id: cell for cell in grid.cells}, GridFolder(out)
        self._all = self.bars.add_task("cells", total=len(grid.cells), note="")
        self._tasks: dict[str, Any] = {}
        self._begun: tuple[float, float] | None = None

    def __enter__(self) -> Board:
        self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bars.stop()

    def __call__(self, state: State) -> None:
        """Show the state."""
        if isinstance(self.bars, Lines) and not self.bars.due:
            return  # the folders of cells are read for what is shown only
        parts = {cell: self._part(self._cells[cell]) for cell in state.running}
        over = len(state.done) + len(state.failed)
        done, now = over + sum(a / b for a, b in parts.values()), time.monotonic()
        self._begun = self._begun or (now, done)
        left = remaining(now - self._begun[0], done - self._begun[1], len(self._cells) - done)
        elsewhere = len(state.running) - len(state.own)
        notes = [f"{len(state.running)} running", f"{len(state.failed)} failed"]
        notes += [f"{elsewhere} of another command"] * (elsewhere > 0) + [left] * bool(left)
        self.bars.update(self._all, completed=len(state.done), note=", ".join(notes))
        for cell in set(self._tasks) - state.own:
            self.bars.remove_task(self._tasks.pop(cell))
        for cell in state.own:
            completed, total = parts[cell]
            if cell not in self._tasks:
                self._tasks[cell] = self.bars.add_task(escape(title(self._cells[cell])), total=total, note=cell)
            self.bars.update(self._tasks[cell], completed=completed, total=total)

    def _part(self, cell: Cell) -> tuple[int, int]:
        """Return how many epochs and attacks are done, and how many there are."""
        from ..bench.folder import steps

        return sum(steps(self._folder.run(cell.id))), cell.settings.epochs + len(cell.attacks)


def title(cell: Cell) -> str:
    """Return a cell as its axes name it.

    >>> from splitveil.bench.grid import load_grid
    >>> title(load_grid("smoke").cells[0])
    'more=None lambda=0 seed=0'
    """
    return " ".join(f"{name}={value}" for name, value in cell.axes.items()) or cell.id


def remaining(seconds: float, done: float, left: float) -> str:
    """Return the time that is left where ``done`` cells, or parts of one, took so many seconds.

    >>> remaining(60, 0.5, 2), remaining(60, 0, 2)
    ('4 min left', '')
    """
    return f"{duration(seconds * left / done)} left" if done > 0 else ""
