"""Finished cells whose training has lost a file: nothing is taken for done that is not there."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from forked import Forked
from networks import tiny
from splitveil import config, runs
from splitveil.bench.cell import run_cell
from splitveil.bench.cells import Cell, Grid
from splitveil.bench.driver import Driver
from splitveil.bench.folder import GridFolder, finished, mark
from splitveil.errors import UserError
from splitveil.evaluation import evaluate, tail
from splitveil.training import trainer
from training_helpers import settings

ATTACK = {"nearest": config.Spec.model_validate("nearest:neighbors=1,looks=1").resolve("attacks")}
TRAINED = ("model.safetensors", "metrics.jsonl", "test.csv", "test_retrained.csv", "summary.json", "config.yaml")


def cell(protocol: str) -> Cell:
    about = settings(test_size=60, defense=("gaussian:0.1",))
    return Cell(about.model_copy(update={"protocol": protocol}).resolve(), ATTACK)


ONE, OTHER = cell("train_time"), cell("inference_time")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A bench folder of two cells that share a training, which no test changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.zoo, "build", tiny)
        out = tmp_path_factory.mktemp("benches") / "old"
        run_cell(ONE, out)
        run_cell(OTHER, out)
    return out


@pytest.fixture
def out(made, tmp_path, small) -> Path:
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(made, tmp_path / "out", symlinks=True))


def left(out: Path, one: Cell) -> tuple[Any, ...]:
    folder = GridFolder(out).run(one.id)
    record = json.loads((folder / "record.json").read_text())
    files = [(folder / name).read_bytes() for name in ("model.safetensors", "test.csv", "test_retrained.csv")]
    attack = (folder / "attacks" / "nearest" / "per_image.csv").read_bytes()
    return *files, attack, *(record[key] for key in ("curve", "accuracy", "retrained_accuracy", "config", "attacks"))


def refused(*_: Any, **__: Any) -> None:
    raise AssertionError("an attack was made again")


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("empty", [False, True])
def test_a_finished_cell_that_has_lost_a_file_is_made_whole_again(out, name, empty, monkeypatch):
    path, before = GridFolder(out).run(ONE.id) / name, left(out, ONE)
    path.unlink()
    if empty:
        path.touch()
    assert finished(ONE, out) is None
    if name not in ("summary.json", "config.yaml"):
        monkeypatch.setattr(evaluate, "attack_run", refused)
    run_cell(ONE, out)
    assert finished(ONE, out) is not None
    assert finished(OTHER, out) is not None
    assert left(out, ONE) == before


def test_a_cell_that_has_lost_its_settings_keeps_its_weights(out, monkeypatch):
    folder = GridFolder(out).run(ONE.id)
    (folder / "config.yaml").unlink()
    monkeypatch.setattr(trainer.Trainer, "_whole_epoch", refused)
    run_cell(ONE, out)
    assert finished(ONE, out) is not None


def test_a_training_that_has_lost_its_settings_goes_on(tmp_path, small, monkeypatch):
    steps: list[int] = []

    def stop() -> None:
        steps.append(1)
        if len(steps) == 6:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(ONE, tmp_path, check=stop)
    folder = GridFolder(tmp_path).run(ONE.id)
    (folder / "config.yaml").unlink()
    first = json.loads((folder / "metrics.jsonl").read_text())
    run_cell(ONE, tmp_path)
    assert json.loads((folder / "metrics.jsonl").read_text().splitlines()[0]) == first


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl", "test.csv", "summary.json"])
@pytest.mark.parametrize("empty", [False, True])
def test_what_cells_share_is_made_again_once_whichever_comes_first(out, name, empty):
    before, path = left(out, OTHER), GridFolder(out).run(ONE.id) / name
    path.unlink()
    if empty:
        path.touch()
    assert (finished(ONE, out), finished(OTHER, out)) == (None, None)
    assert run_cell(OTHER, out)["trained_as"] == ONE.id
    assert left(out, OTHER) == before
    assert finished(ONE, out) is not None


def test_a_grid_makes_again_what_its_cells_have_lost(out):
    for one, name in ((ONE, "model.safetensors"), (OTHER, "test_retrained.csv")):
        (GridFolder(out).run(one.id) / name).unlink()
    driver = Driver(Grid("tests", "", (ONE, OTHER)), out, 0, lambda _: None)
    assert driver.begin()
    driver.run(Forked(), driver.worker(1, None, os.getpid()), 1)
    assert {*driver.done} == {ONE.id, OTHER.id}
    assert (GridFolder(out).run(ONE.id) / "model.safetensors").is_file()


def test_what_cannot_be_made_again_to_the_same_is_one_line(out):
    folder = GridFolder(out).run(ONE.id)
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"weights": "0" * 64}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="put back what was lost, or delete the folder and train it again") as error:
        run_cell(ONE, out)
    assert "\n" not in str(error.value)
    assert finished(ONE, out) is None


def test_a_training_that_is_repeated_makes_progress(out):
    """A job that a time limit cuts off again and again while it repeats a training is no failing one."""
    folder = GridFolder(out).run(ONE.id)
    before = mark(folder)
    (folder / "again").mkdir()
    (folder / "again" / "metrics.jsonl").touch()
    assert mark(folder) != before


def test_a_retraining_is_only_made_again_where_its_answers_are_lost(out, monkeypatch):
    run = runs.Run.open(GridFolder(out).run(ONE.id))
    images = runs.load_images(ONE.settings)
    monkeypatch.setattr(tail, "retrained", refused)
    assert tail.retrain(run, images) == run.summary
    (run.path / "test_retrained.csv").unlink()
    with pytest.raises(AssertionError):
        tail.retrain(run, images)


def test_a_record_that_was_kept_alone_is_done(out):
    folder = GridFolder(out).run(ONE.id)
    for path in folder.iterdir():
        if path.name != "record.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert finished(ONE, out) is not None
