"""What a grid will take: each kind of training and attack is tried for a moment, and its seconds are multiplied."""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .. import config, memory, runs
from ..attacks.base import BATCH
from ..data import ImageSet, Split
from ..data.protocol import divide, protocol_sizes
from ..defenses.base import Stack
from ..evaluation import rehearsal, stage
from ..evaluation.tail import RECIPE
from ..storage import reading
from ..training import feature_buffer
from ..training.trainer import fit
from . import checks
from .cells import Cell, Grid
from .checks import named
from .folder import finished
from .image_sets import ImageSets

EPOCHS = 2
"""What refits itself from features, or acts late, begins in the second epoch."""
TRAIN, TEST, PER_CLASS = 512, 200, 8
"""Images of the tried training, at least, of its test, and of each class."""
ATTACKER = 2048
"""Images of the tried attacker, at most."""
SECONDS = 40.0
"""Time for a plan; kinds that are left then are taken to cost what the slowest one did."""
COLUMNS = ("training", "cells", "done", "step s", "training h", "attacks h", "disk GB", "memory GB")
PICTURES = 2**18
"""Bytes that an attack leaves beside its numbers for each image: pictures and a summary."""


@dataclass(frozen=True)
class Kind:
    """What was found about one kind of cell.

    Attributes:
        name: its images, network and defenses.
        cells: how many of the grid are of it.
        loss: of the last epoch that was tried.
        step: seconds of an optimizer step.
        image: seconds of an epoch for each training image, with validation and refit.
        attacks: label -> seconds of the whole attack, by what the attackers of the kind differ in (`_attacker`).
        disk: bytes of the run folder.
        memory: bytes at the peak of the process, or of the GPU.
        wire: bytes of an image's feature.
        seconds: what trying it took.
    """

    name: str
    cells: int
    loss: float
    step: float
    image: float
    attacks: dict[tuple[Any, ...], dict[str, float]]
    disk: int
    memory: int
    wire: int
    seconds: float


@dataclass(frozen=True)
class Group:
    """Cells of one kind; seconds and bytes are those of the cells that are not done, memory that of one cell."""

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
        groups: one for each kind of cell.
        jobs: cells that run at once.
        notes: what the figures assume, or will not fit.
    """

    groups: tuple[Group, ...]
    jobs: int
    notes: tuple[str, ...]

    def total(self, part: str) -> Any:
        """Return the sum of a figure of all groups."""
        return sum(getattr(group, part) for group in self.groups)

    @property
    def at_once(self) -> int:
        """Cells that really run at once."""
        return max(1, min(self.jobs, self.total("cells") - self.total("done")))

    @property
    def hours(self) -> float:
        """Hours until all is done."""
        return (self.total("training") + self.total("attacks")) / 3600 / self.at_once

    @property
    def memory(self) -> int:
        """Bytes that the largest cells take at once."""
        return self.at_once * max((group.memory for group in self.groups), default=0)

    def rows(self) -> list[tuple[str, ...]]:
        """Return texts under `COLUMNS` for each group, and for all; the memory of all is that of all jobs."""
        rows = [
            (
                *(group.name, str(group.cells), str(group.done), f"{group.step:.3g}"),
                *(_hours(group.training), _hours(group.attacks), _gigabytes(group.disk), _gigabytes(group.memory)),
            )
            for group in self.groups
        ]
        last = ("all", str(self.total("cells")), str(self.total("done")), "", _hours(self.total("training")))
        last += (_hours(self.total("attacks")), _gigabytes(self.total("disk")), _gigabytes(self.memory))
        return [*rows, last]


def rehearse(
    grid: Grid,
    images: ImageSets | None = None,
    *,
    seconds: float = math.inf,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Kind]:
    """Train each kind of cell for two epochs on a few hundred of its images, and run two steps of its attacks.

    What takes days should not stop in the middle: images, networks, defenses and attacks are those of the grid, only
    the epochs, images and steps are fewer. Nothing is kept. The kinds of most cells come first.

    Args:
        grid: what is tried.
        images: where they come from.
        seconds: after which no further kind is begun.
        progress: called with (kinds done, kinds in all).

    Returns:
        By `checks.workload_key`.

    Raises:
        UserError: what stops a cell, named by its axes.
    """
    start, images, kinds = time.perf_counter(), images or ImageSets(), _kinds(grid)
    found: dict[str, Kind] = {}
    for key in sorted(kinds, key=lambda key: -len(kinds[key])):
        if found and time.perf_counter() - start > seconds:
            break
        cell = max(kinds[key], key=lambda one: _acting(one.settings))
        with named(cell.axes):
            found[key] = _tried(cell, kinds[key], images)
        if progress:
            progress(len(found), len(kinds))
    return found


def estimate(
    grid: Grid,
    out: str | Path | None = None,
    *,
    jobs: int = 1,
    threads: int | None = None,
    here: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Rehearse the grid, on random images of the published size where the real ones are missing, and multiply.

    Args:
        grid: what is planned.
        out: where the grid runs; cells with a record there are done.
        jobs: cells that will run at once, each with ``threads`` cores (None: as many as torch takes). What is timed
            runs alone: jobs that share cores or memory channels are slower.
        threads: of torch, while it is timed.
        here: whether it will run on this machine, whose memory must then hold all jobs.
        progress: called with (kinds tried, kinds in all).

    Raises:
        UserError: what would stop a cell, or an image set of unknown size that cannot be loaded.
    """
    out = None if out is None else Path(out)
    kept, images, kinds = torch.get_num_threads(), ImageSets(random=True), _kinds(grid)
    torch.set_num_threads(threads or kept)
    try:
        for cell in grid.cells:
            with named(cell.axes):
                checks.check_counts(cell, images.size(cell.settings))
        notes, found = _busy(), rehearse(grid, images, seconds=SECONDS, progress=progress)
    finally:
        torch.set_num_threads(kept)
    if left := len(kinds) - len(found):
        notes.append(f"{left} of {len(kinds)} kinds were not tried; they are taken to be like the slowest one")
        slowest = max(found.values(), key=lambda kind: kind.image)
        found |= {key: replace(slowest, name=_title(kinds[key][0].settings)) for key in kinds.keys() - found.keys()}
    groups = tuple(_group(cells, found[key], images, out) for key, cells in kinds.items())
    if not here:
        notes.append("the steps were timed on this machine; where the cells run they may take more or less time")
    return Plan(groups, jobs, (*notes, *images.notes, *_shortages(Plan(groups, jobs, ()), out, here)))


def shortened(settings: config.TrainConfig) -> config.TrainConfig:
    """Return the same training in `EPOCHS`; defenses that act later do so after the first.

    >>> one = config.parse({"data": "digits", "epochs": 240, "defense": ["patrol:180"]}).resolve()
    >>> shortened(one).defense[0].parameters["epoch"]
    1
    """
    stack = []
    for spec in settings.defense:
        late = spec.make("defenses").acts_after
        parameters = {k: 1 if late > 1 and v == late else v for k, v in spec.parameters.items()}
        stack.append(spec.model_copy(update={"parameters": parameters}))
    return settings.model_copy(update={"epochs": EPOCHS, "defense": tuple(stack), "warmup_epochs": 0.0, "devices": 1})


def _kinds(grid: Grid) -> dict[str, list[Cell]]:
    kinds: dict[str, list[Cell]] = defaultdict(list)
    for cell in grid.cells:
        kinds[checks.workload_key(cell.settings)].append(cell)
    return kinds


def _tried(cell: Cell, cells: list[Cell], images: ImageSets) -> Kind:
    start, settings = time.perf_counter(), shortened(cell.settings)
    few = _few(images.of(cell.settings), settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    _forget_peak()
    with tempfile.TemporaryDirectory() as name, torch.random.fork_rng():  # layers draw from torch's global generator
        folder = Path(name)
        summary = fit(settings, few, folder)
        model = memory.placed(runs.Run.open(folder).model(few), device)
        attackers = {_attacker(one): one for one in cells}
        attacks = {
            key: {label: _attack_seconds(model, spec, one, images) for label, spec in one.attacks.items()}
            for key, one in attackers.items()
        }
        last = reading.read_lines(folder / "metrics.jsonl", reading.EPOCH, "try again")[-1]
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    count = summary["images"]["train"]
    return Kind(
        name=_title(cell.settings),
        cells=len(cells),
        loss=last["loss"],
        step=last["seconds"] / math.ceil(count / settings.batch_size),
        image=last["seconds"] / count,
        attacks=attacks,
        disk=disk,
        memory=_peak(),
        wire=summary["wire"]["bytes"],
        seconds=time.perf_counter() - start,
    )


def _attacker(cell: Cell) -> tuple[Any, ...]:
    return cell.settings.protocol, cell.settings.train_size, cell.settings.test_size


def _attack_seconds(model: Any, spec: config.Spec, cell: Cell, images: ImageSets) -> float:
    about = cell.settings
    threat = stage.ThreatModel(about.protocol, cell.attacker_size, cell.attacked)
    given = stage.parts(about, images.of(about), about.protocol, cell.attacker_size, cell.attacked)
    count, tried = len(given.attacker_train), []
    for size in [count] if count <= ATTACKER else [ATTACKER, ATTACKER // 2]:
        some, _ = divide(given.attacker_train, size, torch.Generator().manual_seed(0))
        ready = stage.stage_of(model, spec, replace(given, attacker_train=some), threat, about.seed)
        tried.append(rehearsal.two_steps(ready))
    batches = math.ceil(len(given.attacker_test) / BATCH)
    return tried[0].seconds(batches, tried[-1], count / min(count, ATTACKER))


def _few(images: ImageSet, settings: config.TrainConfig) -> ImageSet:
    """Return enough images for a whole batch and for each class."""
    count = max(TRAIN, PER_CLASS * len(images.classes), math.ceil(1.2 * settings.batch_size))
    count *= 1 + (settings.protocol == "auxiliary")  # half of them are the attacker's
    return replace(images, train=_part(images.train, count), test=_part(images.test, TEST))


def _part(split: Split, count: int) -> Split:
    return divide(split, min(count, len(split)), torch.Generator().manual_seed(0))[0]


def _group(cells: Sequence[Cell], kind: Kind, images: ImageSets, out: Path | None) -> Group:
    left = [cell for cell in cells if out is None or not finished(cell, out)]
    training = attacks = 0.0
    disk = memory = 0
    trained: set[tuple[str, ...]] = set()
    for cell in left:
        size = images.size(cell.settings)
        counts = protocol_sizes(cell.settings.protocol, size.train, size.test)
        there = [out / "cells" / name / "summary.json" for name in cell.trained_alike] if out else []
        if cell.trained_alike not in trained and not any(path.is_file() for path in there):
            # The retraining of the tail is taken to go back through the encoder too.
            training += (cell.settings.epochs + RECIPE["epochs"]) * counts["defender_train"] * kind.image
            disk += kind.disk
        trained.add(cell.trained_alike)
        known = kind.attacks.get(_attacker(cell)) or max(kind.attacks.values(), key=lambda found: sum(found.values()))
        attacks += sum(known.values())
        disk += len(cell.attacks) * (PICTURES + 64 * (cell.attacked or counts["attacker_test"]))
        memory = max(memory, kind.memory + _features(cell.settings, kind, counts["defender_train"], size.side))
    return Group(kind.name, len(cells), len(cells) - len(left), kind.step, training, attacks, disk, memory)


def _features(settings: config.TrainConfig, kind: Kind, count: int, side: int) -> int:
    """Return the bytes of what grows with the training images: features of an epoch, on a GPU the images too."""
    stack = Stack(*(spec.make("defenses") for spec in settings.defense))
    kept = 2 * min(count, feature_buffer.capacity(kind.wire // 4)) * kind.wire if stack.wants_features else 0
    return kept + (count * 3 * side**2 if torch.cuda.is_available() else 0)


def _acting(settings: config.TrainConfig) -> int:
    """Return how many weights of the defenses are not 0: a loss that is switched off costs nothing."""
    return sum(bool(spec.parameters.get("weight")) for spec in settings.defense)


def _title(settings: config.TrainConfig) -> str:
    """Return a line that names the images, the network and the defenses."""
    cut = "" if settings.cut is None else f"/{settings.cut}"
    channels = "" if settings.bottleneck is None else f" C{settings.bottleneck}"
    defenses = "+".join(spec.name for spec in settings.defense) or "no defense"
    return f"{settings.data} {settings.arch}{cut}{channels} {defenses}"


def _forget_peak() -> None:
    """Begin to measure the peak of memory anew; on systems that cannot, it is that of the process so far."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Return the bytes at the peak of the GPU's memory, without one of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _busy() -> list[str]:
    """Return a warning where others compute on this machine while it is timed."""
    load, cores = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0, os.cpu_count() or 1
    busy = f"the machine is busy (load {load:.1f} on {cores} cores): on an idle one all of this takes less time"
    return [busy] if load > 1.2 * cores else []


def _shortages(plan: Plan, out: Path | None, here: bool) -> list[str]:
    notes = []
    if out is not None:
        there = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
        free, needed = shutil.disk_usage(there).free, plan.total("disk")
        if free < needed:
            notes.append(f"the disk has {_gigabytes(free)} GB free, and {_gigabytes(needed)} are needed")
    have = memory.capacity("cuda" if torch.cuda.is_available() else "cpu")
    if here and have and have < plan.memory:
        needed = _gigabytes(plan.memory)
        notes.append(f"there are {_gigabytes(have)} GB of memory, and {needed} are needed; use fewer jobs")
    return notes


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.2g}" if seconds < 36_000 else f"{seconds / 3600:,.0f}"


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.2g}" if count < 1e10 else f"{count / 1e9:,.0f}"
