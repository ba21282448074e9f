"""One cell of a grid: a run folder that is trained, attacked and described by its record, from wherever it stands."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config
from ..results import records
from ..storage import reading
from ..storage.earlier_versions import settings_in
from ..storage.files import is_lost, remove_file, write_text
from ..training import pins
from . import record
from .folder import GridFolder

if TYPE_CHECKING:
    from ..data import ImageSet
    from ..evaluation.scores import Metric
    from .cells import Cell

STARTED = ("root", "devices")
"""Settings that are no part of a cell's id; a run that was begun keeps those it was begun with."""

SHARED = ("model.safetensors", "metrics.jsonl", "test.csv", reading.ANSWERS["retrained_accuracy"], "summary.json")
"""Files of a training that cells may have in common."""
NEEDED = ("model.safetensors", "metrics.jsonl", "test.csv", "summary.json")
"""Those that every finished training has."""
BEGUN = ("summary.json", "checkpoint/last.pt")
"""Files that are only there where a training has written its settings."""


def run_cell(
    cell: Cell,
    out: Path,
    *,
    grid: str = "",
    attempts: int = 1,
    images: ImageSet | None = None,
    check: Callable[[], None] | None = None,
    retrain: bool = True,
    extra: Mapping[str, Metric] | None = None,
) -> dict[str, Any]:
    """Train the cell from its last checkpoint, run the attacks that are missing, leave its record and return it.

    A training that another cell has too (`Cell.trained_alike`) is not repeated: its files are linked to. What a
    finished training has lost is made again. The caller holds the lock of the cell.

    Args:
        cell: what is trained and attacked.
        out: the bench folder; the run folder is ``out/cells/ID``.
        grid: name of the grid.
        attempts: how often the cell was begun.
        images: the cell's images, where the caller has them.
        check: called after each step and before each attack; what it raises stops the work.
        retrain: also train the tail anew, without which a grid does not take the cell as done.
        extra: further metrics of the attacks, by name.

    Raises:
        UserError: settings or attacks that cannot be, a disk that is full, files of a finished training that were lost
            and cannot be made again to the same result.
    """
    import torch

    from .. import runs
    from ..evaluation import evaluate, suites, tail
    from . import checks

    started, check, bench = time.time(), check or (lambda: None), GridFolder(out)
    folder = _prepared(cell, bench)
    settings, images = _as_begun(cell.settings, folder), images or runs.load_images(cell.settings)
    terms = evaluate.Terms(settings.protocol, cell.attacker_size, cell.attacked)
    # Before the training, which may take days: attackers that want more images than there are, or another wire.
    checks.check_network(cell, images)
    parts = evaluate.parts(settings, images, terms.protocol_name, terms.attacker_size, terms.attacked)
    _same_images(cell, bench, images)
    _train(settings, images, folder, check)
    run, options = runs.Run.open(folder), {"fits": {}, "extra": extra, "progress": lambda *_: check(), **vars(terms)}
    options["replacing"] = partial(_set_aside, bench, cell)
    if retrain:
        tail.retrain(run, images, progress=lambda *_: check())
    for label, spec in cell.attacks.items():
        check()
        if suites.finished(run, label, spec, parts, terms) is None:
            evaluate.attack_run(run, spec, images, label=label, **options)
    check()
    kept = [label for label, spec in _recorded(bench, cell).items() if suites.finished(run, label, spec, parts, terms)]
    made = record.build(folder, cell, labels=(*kept, *cell.attacks), grid=grid, attempts=attempts, started=started)
    made["environment"] |= {"threads": torch.get_num_threads()}  # with others, sums are rounded in another order
    return _left(bench, made)


def _prepared(cell: Cell, bench: GridFolder) -> Path:
    """Return the run folder of a cell, without what was half-written, and with the training that it shares."""
    folder = bench.run(cell.id)
    _settle(cell, folder)
    _tidy(folder)
    _share(cell, bench)
    return folder


def _train(settings: config.TrainConfig, images: ImageSet, folder: Path, check: Callable[[], None]) -> None:
    """Train a cell from its last checkpoint, and first any training whose files it shares and that has lost some."""
    from ..training.trainer import fit

    for owner in _linked_to(folder):
        _tidy(owner)
        theirs = config.parse(settings_in(owner / "config.yaml"))
        fit(theirs, images, owner, resume=True, progress=lambda *_: check())
    fit(settings, images, folder, resume=True, progress=lambda *_: check())


def _left(bench: GridFolder, made: dict[str, Any]) -> dict[str, Any]:
    """Write a record and return it; one that was set aside has nothing more to tell."""
    records.write(bench.run(made["id"]), made)
    remove_file(bench.set_aside(made["id"]))
    return made


def _share(cell: Cell, bench: GridFolder) -> None:
    """Link the files of a finished training that the cell shares with another, where its own is not begun.

    The links are relative, so that a bench folder may be moved. ``config.yaml`` is the cell's own and comes last: a
    folder without one holds nothing yet.
    """
    folder = bench.run(cell.id)
    # All of them: of a cell that had links itself, some may lead to a folder that is gone.
    alike = map(bench.run, cell.trained_alike)
    there = [made for made in alike if all((made / name).is_file() for name in NEEDED)]
    if not there or (folder / "config.yaml").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in SHARED:
        if (there[0] / name).is_file():
            (folder / name).symlink_to(Path("..") / there[0].name / name)
    version = reading.read_json(there[0] / "summary.json", reading.RUN, records.AGAIN)["environment"]["splitveil"]
    values = settings_in(there[0] / "config.yaml") | {"protocol": cell.settings.protocol}
    write_text(folder / "config.yaml", config.dump(config.parse(values), splitveil=version))


def _settle(cell: Cell, folder: Path) -> None:
    """Write the settings of a run anew that has lost them: without them its folder would count as one of no run."""
    if is_lost(folder / "config.yaml") and any(map(Path.is_file, (folder / name for name in BEGUN))):
        write_text(folder / "config.yaml", config.dump(cell.settings))


def _linked_to(folder: Path) -> set[Path]:
    """Return the run folders to which links of a shared training lead that find nothing or an empty file there."""
    broken = [path for path in (folder / name for name in SHARED) if path.is_symlink() and is_lost(path)]
    owners = {folder.parent / path.readlink().parent.name for path in broken}
    return {owner for owner in owners if (owner / "config.yaml").is_file()}


def _same_images(cell: Cell, bench: GridFolder, images: ImageSet) -> None:
    """Compare the images with those of a finished cell of the same image set: the page sets cells side by side.

    Raises:
        UserError: they were replaced since.
    """
    about = cell.settings.model_dump(mode="json", include={"data", "train_size", "test_size"})
    for path in sorted(bench.out.glob(f"cells/*/{records.RECORD}")):
        there = records.read(path).config
        summary = path.parent / "summary.json"
        if all(there.get(key) == value for key, value in about.items()) and not is_lost(summary):
            kept = reading.read_json(summary, reading.RUN, records.AGAIN)
            pins.check(kept, images, path.parent)
            return


def _set_aside(bench: GridFolder, cell: Cell, label: str) -> None:
    """Rename the record before an attack of it is overwritten, or it would stand beside values of another attack."""
    path = bench.record(cell.id)
    if path.is_file() and label in records.read(path).attacks:
        path.replace(bench.set_aside(cell.id))


def _recorded(bench: GridFolder, cell: Cell) -> dict[str, config.Spec]:
    """Return the other attacks of a record that is there: another grid's, or of an earlier version of this one.

    They stay in the record, or what is called the worst case would be better than what was found.
    """
    there = (bench.record(cell.id), bench.set_aside(cell.id))  # both are there after a kill: the record is the later
    path = next((path for path in there if path.is_file()), None)
    if path is None:
        return {}
    attacks = records.read(path).attacks.items()
    return {label: config.Spec.model_validate(attack.attack) for label, attack in attacks if label not in cell.attacks}


def _tidy(folder: Path) -> None:
    """Remove what a killed process or a machine that failed left half-written: nobody else is at work here."""
    if not (folder / "config.yaml").is_file() and folder.is_dir():
        shutil.rmtree(folder)  # it holds no run yet, and a training refuses a folder that holds something else
    for path in list(folder.rglob(".*.tmp*")):
        path.unlink(missing_ok=True)
    if is_lost(summary := folder / "summary.json") and not summary.is_symlink():
        summary.unlink(missing_ok=True)  # an empty one: the training is ended once more


def _as_begun(settings: config.TrainConfig, folder: Path) -> config.TrainConfig:
    path = folder / "config.yaml"
    if not path.is_file():
        return settings
    begun = config.parse(settings_in(path))
    return settings.model_copy(update={key: getattr(begun, key) for key in STARTED})
