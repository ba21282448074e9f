"""Cells whose attacks are made again: stopped at any moment, no record stands beside values of another attack."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from networks import tiny
from splitveil import config, runs
from splitveil.bench.cell import run_cell
from splitveil.bench.cells import Cell, Grid
from splitveil.bench.driver import describe, run_grid
from splitveil.bench.folder import GridFolder, finished
from splitveil.errors import UserError
from splitveil.evaluation import evaluate
from splitveil.results.attack_files import AttackFiles
from splitveil.results.records import failures, gather
from splitveil.storage.files import write_json
from training_helpers import settings


def cell(looks: int, **others: str) -> Cell:
    """A cell with the attacks ``nearest`` and ``linear``, which look so often at each image, and others."""
    texts = {"nearest": f"nearest:neighbors=1,looks={looks}", "linear": f"linear:looks={looks}"}
    specs = {label: config.Spec.model_validate(text).resolve("attacks") for label, text in (texts | others).items()}
    return Cell(settings(test_size=60, defense=("gaussian:0.1",)).resolve(), specs)


OLD, NEW = cell(1), cell(2)
SECOND = {"second": "nearest:neighbors=2,looks=1"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A bench folder in which the old cell is done, which no test changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.zoo, "build", tiny)
        out = tmp_path_factory.mktemp("benches") / "old"
        run_cell(OLD, out)
    return out


@pytest.fixture
def out(made, tmp_path, small) -> Path:
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def whole(out: Path) -> bool:
    """Whether the folder's only cell has a record that is of the attacks beside it."""
    (record,) = gather(out)
    return AttackFiles(out).disagreement(record) is None


def stopped_at(monkeypatch, moment: int, work: Callable[[], Any]) -> bool:
    """Do something, stop it before the file of that number is written, and return whether there is such a one."""
    written, before = 0, os.replace

    def replace(*paths: Any) -> None:
        nonlocal written
        written += 1
        if written == moment:
            raise KeyboardInterrupt
        before(*paths)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        try:
            work()
        except KeyboardInterrupt:
            return True
    return False


def test_stopped_before_any_of_its_files_a_cell_shows_no_mixed_figures_and_goes_on(out, made, monkeypatch):
    folder, moment = GridFolder(out), 0
    weights = (folder.run(OLD.id) / "model.safetensors").stat().st_mtime_ns
    states = set()
    while finished(NEW, out) is None:
        moment += 1
        if stopped_at(monkeypatch, moment, lambda: run_cell(NEW, out)):
            states.add((folder.record(OLD.id).is_file(), folder.set_aside(OLD.id).is_file()))
            assert (False, True) in states or whole(out)
    assert moment > 5
    assert states == {(True, False), (False, True)}
    assert whole(out)
    assert not folder.set_aside(NEW.id).exists()
    assert (folder.run(NEW.id) / "model.safetensors").stat().st_mtime_ns == weights
    shutil.copytree(made, out.with_name("undisturbed"))
    expected = run_cell(NEW, out.with_name("undisturbed"))["attacks"]
    found = json.loads(folder.record(NEW.id).read_text())["attacks"]
    assert {name: one["mse"] for name, one in found.items()} == {name: one["mse"] for name, one in expected.items()}


def interrupted(out: Path, monkeypatch) -> None:
    """Make the attacks of the new grid, and stop before the second one replaces the old."""
    before = evaluate.save

    def save(outcome: Any, run: runs.Run, label: str, *rest: Any, **more: Any) -> None:
        if label == "linear":
            raise KeyboardInterrupt
        before(outcome, run, label, *rest, **more)

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "save", save)
        with pytest.raises(KeyboardInterrupt):
            run_cell(NEW, out)


def test_a_cell_of_which_an_attack_is_made_again_is_not_done(out, monkeypatch):
    interrupted(out, monkeypatch)
    assert finished(OLD, out) is None
    with pytest.raises(UserError, match="has no finished cell"):
        gather(out)
    note = {"schema": 1, "id": OLD.id, "axes": {}, "config": {}, "error": "x", "log": None, "attempts": 3}
    write_json(GridFolder(out).failed(OLD.id), note)
    assert [one.id for one in failures(out)] == [OLD.id]
    run_cell(OLD, out)
    assert finished(OLD, out) is not None


def test_attacks_of_another_grid_stay_in_the_record_although_it_was_set_aside(out, monkeypatch):
    run_cell(cell(1, **SECOND), out)
    interrupted(out, monkeypatch)
    assert set(run_cell(NEW, out)["attacks"]) == {"nearest", "linear", "second"}


def test_an_attack_that_is_added_leaves_the_record_in_its_place(out, monkeypatch):
    before = evaluate.save

    def save(outcome: Any, run: runs.Run, label: str, *rest: Any, **more: Any) -> None:
        assert label == "second"
        assert GridFolder(out).record(OLD.id).is_file()
        before(outcome, run, label, *rest, **more)

    monkeypatch.setattr(evaluate, "save", save)
    run_cell(cell(1, **SECOND), out)


def test_an_attack_that_was_made_again_by_hand_is_made_as_the_grid_wants_it(out):
    record = finished(OLD, out)
    assert record is not None
    run = runs.Run.open(GridFolder(out).run(OLD.id))
    evaluate.attack_run(run, OLD.attacks["linear"], runs.load_images(OLD.settings), attacked=5)
    assert finished(OLD, out) is None
    run_cell(OLD, out)
    again = finished(OLD, out)
    assert again is not None
    assert again.attacks["linear"].mse == record.attacks["linear"].mse


LEFT = ("summary.json", "per_image.csv", "held_out.csv", "reconstructions.npz")


@pytest.mark.parametrize("gone", [*(f"attacks/linear/{name}" for name in LEFT), "attacks"])
def test_an_attack_that_was_removed_or_lost_a_file_is_made_again(out, gone):
    path = GridFolder(out).run(OLD.id) / gone
    path.rename(out / "moved")
    assert finished(OLD, out) is None
    run_cell(OLD, out)
    assert path.exists()
    assert path.is_dir() or path.suffix == ".json" or path.read_bytes() == (out / "moved").read_bytes()
    assert finished(OLD, out) is not None


def without_its_end(path: Path) -> None:
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")


def with_half(path: Path) -> None:
    """Halve the error of the first image."""
    head, first, *rest = path.read_text().splitlines()
    image, mse, *more = first.split(",")
    path.write_text("\n".join([head, ",".join([image, str(float(mse) / 2), *more]), *rest]) + "\n")


def with_other_mean(path: Path) -> None:
    kept = json.loads(path.read_text())
    write_json(path, kept | {"mse": {"mean": 2 * kept["mse"]["mean"], "ci95": kept["mse"]["ci95"]}})


CHANGED: list[tuple[str, Callable[[Path], Any], str]] = [
    ("per_image.csv", without_its_end, r"is damaged \(it has \d+ rows, expected \d+\)"),
    ("per_image.csv", with_half, r"does not agree with the summary.json beside it \(mean mse 0\.\d+, there 0\.\d+\)"),
    ("held_out.csv", with_half, r"does not agree with the summary.json beside it \(mean mse 0\.\d+, there 0\.\d+\)"),
    ("summary.json", with_other_mean, "per_image.csv does not agree with the summary.json beside it"),
    (
        "summary.json",
        lambda path: shutil.copy(path.parents[1] / "nearest" / "summary.json", path),
        "per_image.csv does not agree with the summary.json beside it",
    ),
]


@pytest.mark.parametrize(("name", "change", "said"), CHANGED)
def test_a_file_of_an_attack_that_was_changed_is_one_line_and_is_made_again_as_it_says(out, name, change, said):
    left = GridFolder(out).run(OLD.id) / "attacks" / "linear"
    before = (left / "per_image.csv").read_bytes()
    change(left / name)
    with pytest.raises(UserError, match=said) as error:
        run_grid(Grid("tests", "", (OLD,)), out)
    assert "\n" not in str(error.value)
    assert "delete the folder of the cell, or this file, and run the grid again" in str(error.value)
    (left / "per_image.csv").unlink()
    assert finished(OLD, out) is None
    run_cell(OLD, out)
    assert (left / "per_image.csv").read_bytes() == before
    assert finished(OLD, out) is not None


def test_what_an_attack_of_the_first_versions_did_not_leave_is_not_missed(out):
    left = GridFolder(out).run(OLD.id) / "attacks" / "linear"
    (left / "reconstructions.npz").unlink()
    summary = json.loads((left / "summary.json").read_text())
    write_json(left / "summary.json", {key: value for key, value in summary.items() if key != "revision"})
    assert finished(OLD, out) is not None


def test_the_margin_stays_named_while_a_record_is_set_aside(out):
    describe(Grid("tests", "", (OLD,), margin=1.0), out)
    GridFolder(out).record(OLD.id).rename(GridFolder(out).set_aside(OLD.id))
    with pytest.raises(UserError, match="the margin of tests was 1 when its first cells were trained, now 2"):
        run_grid(Grid("tests", "", (NEW,), margin=2.0), out)
