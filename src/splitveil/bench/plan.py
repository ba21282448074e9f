"""What a grid will take: hours from steps that are really timed, disk, memory; before anything runs."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import config, memory
from ..errors import UserError
from ..evaluation.tail import RECIPE
from . import _timing, shapes
from .cell import finished
from .checks import named
from .grid import Cell, Grid
from .shapes import Parts, Size

SECONDS = 40.0
"""Time for timing; shapes that are left then are taken to cost what the slowest one did."""
COLUMNS = ("training", "cells", "done", "step s", "training h", "attacks h", "disk GB", "memory GB")
PROCESS = 800_000_000
"""Bytes of a process on a processor before it has loaded an image: Python, torch and this package."""
PICTURES = 2**18
"""Bytes that an attack leaves beside its numbers for each image: a picture and a summary."""


@dataclass(frozen=True)
class Group:
    """Cells of one shape. Seconds and bytes are those of the cells that are not done, memory that of one cell.

    Attributes:
        step: seconds of one optimizer step.
        training, attacks: seconds, one cell after the other.
        disk: bytes that they leave. memory: bytes at the peak of one of them.
    """

    name: str
    cells: int
    done: int
    step: float
    training: float
    attacks: float
    disk: int
    memory: int


@dataclass(frozen=True)
class Plan:
    """What `estimate` found.

    Attributes:
        jobs: cells that run at once.
        notes: what the figures leave out, assume, or will not fit.
    """

    groups: tuple[Group, ...]
    jobs: int
    notes: tuple[str, ...]

    @property
    def cells(self) -> int:
        return sum(group.cells for group in self.groups)

    @property
    def done(self) -> int:
        return sum(group.done for group in self.groups)

    @property
    def hours(self) -> float:
        """Hours until all is done, ``jobs`` cells at once."""
        return sum(group.training + group.attacks for group in self.groups) / 3600 / self._at_once

    @property
    def disk(self) -> int:
        """Bytes."""
        return sum(group.disk for group in self.groups)

    @property
    def memory(self) -> int:
        """Bytes that ``jobs`` of the largest cells take at once."""
        return self._at_once * max((group.memory for group in self.groups), default=0)

    @property
    def _at_once(self) -> int:
        return max(1, min(self.jobs, self.cells - self.done))

    def rows(self) -> list[tuple[str, ...]]:
        """A row of texts under `COLUMNS` for each group, and one for all; the memory of all is that of all jobs."""
        rows = [
            (
                *(group.name, str(group.cells), str(group.done), f"{group.step:.3g}"),
                *(_hours(group.training), _hours(group.attacks), _gigabytes(group.disk), _gigabytes(group.memory)),
            )
            for group in self.groups
        ]
        sums = [_hours(sum(getattr(group, part) for group in self.groups)) for part in ("training", "attacks")]
        last = ("all", str(self.cells), str(self.done), "", *sums, _gigabytes(self.disk), _gigabytes(self.memory))
        return [*rows, last]


def estimate(
    grid: Grid,
    out: str | Path | None = None,
    *,
    jobs: int = 1,
    threads: int | None = None,
    here: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Time a few steps of every different shape of training and attack, on random images, and multiply.

    Args:
        out: where the grid runs; cells with a record there are done.
        jobs: cells that will run at once, each with ``threads`` cores (None: as many as torch takes). What is timed
            runs alone: jobs that share cores or memory channels are slower.
        here: whether it will run on this machine, whose memory must then hold all jobs.
        progress: called with (shapes timed, shapes in all).

    Raises:
        UserError: a model that cannot be built, or an image set of unknown size that cannot be loaded.
    """
    kept = torch.get_num_threads()
    torch.set_num_threads(threads or kept)
    try:
        return _estimate(grid, None if out is None else Path(out), jobs, here, progress)
    finally:
        torch.set_num_threads(kept)


def _estimate(grid: Grid, out: Path | None, jobs: int, here: bool, progress: Callable[[int, int], None] | None) -> Plan:
    notes = _busy()
    sizes = _Sizes(notes)
    by_shape: dict[str, list[Cell]] = defaultdict(list)
    for cell in grid.cells:
        with named(cell.axes):
            Parts.of(cell, sizes.of(cell.settings))  # attackers that want more images than there are
        by_shape[shapes.shape(cell.settings)].append(cell)
    costs = _costs(by_shape, sizes, notes, progress)
    groups = tuple(_group(cells, costs[shape], sizes, out) for shape, cells in by_shape.items())
    attacks = {label: spec.name for cell in grid.cells for label, spec in cell.attacks.items()}
    if untimed := [label for label, name in attacks.items() if name not in _timing.TIMED]:
        notes.append(f"not in the hours: the attacks {', '.join(untimed)}")
    if not here:
        notes.append("the steps were timed on this machine; where the cells run they may take more or less time")
    return Plan(groups, jobs, (*notes, *_shortages(Plan(groups, jobs, ()), out, here)))


def _costs(
    by_shape: dict[str, list[Cell]],
    sizes: _Sizes,
    notes: list[str],
    progress: Callable[[int, int], None] | None,
) -> dict[str, _timing.Cost]:
    """What each shape costs; the most frequent ones first, until the time is over."""
    order = sorted(by_shape, key=lambda shape: -len(by_shape[shape]))
    costs: dict[str, _timing.Cost] = {}
    attackers, start = _timing.Attackers(), time.perf_counter()
    for number, shape in enumerate(order):
        if costs and time.perf_counter() - start > SECONDS:
            left = len(order) - number
            notes.append(f"{left} of {len(order)} shapes were not timed; they are taken to be like the slowest one")
            return costs | dict.fromkeys(order[number:], max(costs.values(), key=lambda cost: cost.step))
        timed = max(by_shape[shape], key=lambda cell: shapes.acting(cell.settings))
        costs[shape] = _timing.measure(timed.settings, sizes.of(timed.settings), timed.attacks, attackers)
        if progress:
            progress(number + 1, len(order))
    return costs


def _group(cells: Sequence[Cell], cost: _timing.Cost, sizes: _Sizes, out: Path | None) -> Group:
    left = [cell for cell in cells if out is None or not finished(cell, out)]
    training = attacks = 0.0
    disk = memory = 0
    trained: set[tuple[str, ...]] = set()
    for cell in left:
        parts = Parts.of(cell, sizes.of(cell.settings))
        there = [out / "cells" / name / "summary.json" for name in cell.trained_alike] if out else []
        if cell.trained_alike not in trained and not any(path.is_file() for path in there):
            training += training_seconds(cell.settings, parts, cost) + retraining_seconds(cell.settings, parts, cost)
        trained.add(cell.trained_alike)
        attacks += sum(
            _timing.attack_seconds(spec, cost.attacks[label], parts.attacker, parts.attacked)
            for label, spec in cell.attacks.items()
            if label in cost.attacks
        )
        disk += cost.disk + len(cell.attacks) * (PICTURES + 64 * parts.attacked)
        memory = max(memory, _memory_of(parts, cost))
    return Group(
        shapes.title(cells[0].settings), len(cells), len(cells) - len(left), cost.step, training, attacks, disk, memory
    )


def _memory_of(parts: Parts, cost: _timing.Cost) -> int:
    """Bytes at the peak: the process, the images and their parts, the larger of the training and the attacks."""
    images = 2 * (parts.size.train + parts.size.test) * 3 * parts.size.side**2
    attack = max((a.memory for a in cost.attacks.values()), default=0) + cost.observed(parts.attacker)
    process = 0 if torch.cuda.is_available() else PROCESS
    return process + images + max(cost.memory + cost.kept(parts.train), attack)


def training_seconds(settings: config.TrainConfig, parts: Parts, cost: _timing.Cost) -> float:
    """Steps, validation and refits of all epochs, and the test at the end."""
    steps = math.ceil(parts.train / settings.batch_size)
    epoch = steps * cost.step + parts.validation * cost.look + parts.train * cost.refit
    return settings.epochs * epoch + parts.size.test * cost.look


def retraining_seconds(settings: config.TrainConfig, parts: Parts, cost: _timing.Cost) -> float:
    """Steps of the retraining of the tail, as if they went back through the encoder too, and its test."""
    steps = math.ceil(parts.train / settings.batch_size)
    return RECIPE["epochs"] * steps * cost.step + parts.size.test * cost.look


class _Sizes:
    """Sizes of image sets, each found once: of the images where they can be loaded, else as published."""

    def __init__(self, notes: list[str]):
        self._found: dict[str, Size] = {}
        self._notes = notes

    def of(self, settings: config.TrainConfig) -> Size:
        key = json.dumps([settings.data, str(settings.root), settings.train_size, settings.test_size])
        if key not in self._found:
            self._found[key] = self._size(settings)
        return self._found[key]

    def _size(self, settings: config.TrainConfig) -> Size:
        try:
            return shapes.loaded(settings)
        except UserError as error:
            known = shapes.published(settings)
            if known is None:
                raise
            self._notes.append(f"{settings.data} is taken to have its published size: {error}")
            return known


def _busy() -> list[str]:
    """A warning where others compute on this machine while it is timed."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    busy = f"the machine is busy (load {load:.1f} on {cores} cores): on an idle one all of this takes less time"
    return [busy] if load > 1.2 * cores else []


def _shortages(plan: Plan, out: Path | None, here: bool) -> list[str]:
    notes = []
    if out is not None:
        there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if free < plan.disk:
            notes.append(f"the disk has {_gigabytes(free)} GB free, and {_gigabytes(plan.disk)} are needed")
    have = memory.capacity("cuda" if torch.cuda.is_available() else "cpu")
    if here and have and have < plan.memory:
        notes.append(
            f"there are {_gigabytes(have)} GB of memory, and {_gigabytes(plan.memory)} are needed; use fewer jobs"
        )
    return notes


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g}" if seconds < 36_000 else f"{seconds / 3600:,.0f}"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2g}" if count < 1e10 else f"{count / 1e9:,.0f}"
