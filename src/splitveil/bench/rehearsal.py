"""A rehearsal: each kind of training and attack of a grid for a moment, on the real images; nothing of it is kept."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import config, runs
from ..data import ImageSet, Split
from ..data._select import balanced
from ..evaluation import evaluate
from ..storage import reading
from ..training.trainer import fit
from . import shapes
from .checks import named
from .grid import Cell, Grid

EPOCHS = 2
"""What refits itself from features, or acts late, begins in the second epoch."""
TRAIN, TEST = 512, 200
"""Images, at least; so many more that every class has `PER_CLASS`."""
PER_CLASS = 8


@dataclass(frozen=True)
class Rehearsed:
    """One kind of cell.

    Attributes:
        name: its network and defenses. cells: how many of the grid are of it.
        loss: of the last epoch. attacks: that ran. seconds: of the rehearsal.
    """

    name: str
    cells: int
    loss: float
    attacks: tuple[str, ...]
    seconds: float


def rehearse(grid: Grid, progress: Callable[[int, int], None] | None = None) -> list[Rehearsed]:
    """Train each kind of cell for two epochs on a few hundred of its images, and run two steps of its attacks.

    What takes days should not stop in the middle: images, networks, defenses and attacks are those of the grid, only
    the epochs, images and steps are fewer.

    Args:
        progress: called with (kinds done, kinds in all).

    Raises:
        UserError: what stops a cell, named by its axes.
    """
    kinds: dict[str, list[Cell]] = defaultdict(list)
    for cell in grid.cells:
        kinds[shapes.shape(cell.settings)].append(cell)
    found = []
    for number, cells in enumerate(kinds.values()):
        cell = max(cells, key=lambda one: shapes.acting(one.settings))
        with named(cell.axes):
            found.append(_one(cell, len(cells)))
        if progress:
            progress(number + 1, len(kinds))
    return found


def shortened(settings: config.TrainConfig) -> config.TrainConfig:
    """The same training in `EPOCHS`; defenses that act later do so after the first.

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


def _one(cell: Cell, count: int) -> Rehearsed:
    start = time.perf_counter()
    settings, images = shortened(cell.settings), _few(runs.load_images(cell.settings))
    terms = evaluate.Terms(settings.protocol)
    with tempfile.TemporaryDirectory() as folder:
        fit(settings, images, folder)
        run = runs.Run.open(Path(folder))
        for spec in cell.attacks.values():
            evaluate.rehearse(run, spec, images, **vars(terms))
        loss = _last_loss(Path(folder))
    return Rehearsed(shapes.title(cell.settings), count, loss, tuple(cell.attacks), time.perf_counter() - start)


def _last_loss(folder: Path) -> float:
    return reading.read_lines(folder / "metrics.jsonl", reading.EPOCH, "try again")[-1]["loss"]


def _few(images: ImageSet) -> ImageSet:
    least = PER_CLASS * len(images.classes)
    parts: dict[str, Any] = {"train": _part(images.train, max(TRAIN, least)), "test": _part(images.test, TEST)}
    return replace(images, **parts)


def _part(split: Split, count: int) -> Split:
    return split.subset(balanced(split.labels, min(count, len(split))))
