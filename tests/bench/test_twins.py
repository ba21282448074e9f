"""One network under two protocols: trained once, and the same as if it had been trained twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_files import little_room

from splitveil import config, runs
from splitveil.bench import _timing, plan, twins
from splitveil.bench import cell as cells
from splitveil.bench.cell import Places, run_cell
from splitveil.bench.grid import Cell, Grid
from splitveil.bench.lease import CellLease
from splitveil.bench.worker import Worker
from splitveil.errors import UserError
from training_helpers import settings

ATTACK = {"nearest": config.Spec.model_validate("nearest:neighbors=1,looks=1").resolve("attacks")}


def cell(protocol: str, **values: Any) -> Cell:
    about = {"test_size": 60, "defense": ("gaussian:0.1",), **values}
    return Cell(settings(**about).model_copy(update={"protocol": protocol}).resolve(), ATTACK)


ONE, OTHER = cell("train_time"), cell("inference_time")


def left(out: Path, one: Cell) -> tuple[Any, ...]:
    folder = Places(out).run(one.id)
    record = json.loads((folder / "record.json").read_text())
    files = [(folder / name).read_bytes() for name in ("model.safetensors", "test.csv")]
    errors = (folder / "attacks" / "nearest" / "per_image.csv").read_bytes()
    return *files, errors, *(record[key] for key in ("curve", "accuracy", "config", "protocol", "test_digest"))


def test_the_network_of_the_twin_is_what_training_again_gives(tmp_path, small):
    run_cell(OTHER, tmp_path / "alone")
    run_cell(ONE, tmp_path / "both")
    record = run_cell(OTHER, tmp_path / "both")
    assert left(tmp_path / "both", OTHER) == left(tmp_path / "alone", OTHER)
    assert record["trained_as"] == ONE.id
    assert not (Places(tmp_path / "both").run(OTHER.id) / "checkpoint").exists()  # it was never trained
    opened = runs.Run.open(Places(tmp_path / "both").run(OTHER.id))
    assert opened.settings.protocol == "inference_time"
    assert "trained_as" not in json.loads(Places(tmp_path / "both").record(ONE.id).read_text())


def test_a_copy_that_was_killed_is_made_again(tmp_path, small, monkeypatch):
    run_cell(ONE, tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(twins, "write_text", killed)  # the last file of the copy
        with pytest.raises(KeyboardInterrupt):
            run_cell(OTHER, tmp_path)
    assert run_cell(OTHER, tmp_path)["trained_as"] == ONE.id


def test_a_copy_that_finds_no_room_is_one_line(tmp_path, small):
    run_cell(ONE, tmp_path)
    with little_room(), pytest.raises(UserError, match=r"cannot write .*model\.safetensors: File too large"):
        twins.adopt(OTHER, Places(tmp_path))
    assert not [*Places(tmp_path).run(OTHER.id).glob("*.safetensors")]
    assert run_cell(OTHER, tmp_path)["trained_as"] == ONE.id


def test_a_training_that_was_begun_is_not_replaced(tmp_path, small):
    steps: list[int] = []

    def stop() -> None:
        steps.append(1)
        if len(steps) == 6:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cell(OTHER, tmp_path, check=stop)
    run_cell(ONE, tmp_path)
    assert "trained_as" not in run_cell(OTHER, tmp_path)
    assert (Places(tmp_path).run(OTHER.id) / "checkpoint").exists()


def test_who_has_a_twin():
    assert (twins.twin(ONE), twins.twin(OTHER)) == (OTHER.id, ONE.id)
    assert twins.twin(cell("auxiliary")) is None  # the attacker's images are taken from the training
    assert twins.twin(cell("train_time", seed=1)) not in (ONE.id, OTHER.id)


def test_a_worker_leaves_the_twin_of_a_cell_at_work_for_later(tmp_path, small):
    third = cell("train_time", seed=1)
    held = CellLease(Places(tmp_path).lock(ONE.id))
    assert held.claim("another")
    worker = Worker((OTHER, third), tmp_path, "tests", 2, "job")
    assert [one.id for one in worker._order(Places(tmp_path), set())] == [third.id, OTHER.id]
    held.release()
    assert [one.id for one in worker._order(Places(tmp_path), set())] == [OTHER.id, third.id]
    run_cell(ONE, tmp_path)  # its network is there, though somebody may still attack it
    assert held.claim("another")
    with held:
        assert [one.id for one in worker._order(Places(tmp_path), set())] == [OTHER.id, third.id]


def test_a_plan_counts_the_training_once(tmp_path, small, monkeypatch):
    cost = _timing.Cost(step=1.0, look=0.0, refit=0.0, disk=0, memory=0, wire=8, features=False)
    monkeypatch.setattr(_timing, "measure", lambda *_: cost)

    def training(*some: Cell) -> float:
        return plan.estimate(Grid("tests", "", some), tmp_path).groups[0].training

    assert training(ONE) == training(OTHER) == training(ONE, OTHER) > 0
    run_cell(ONE, tmp_path)
    assert training(ONE, OTHER) == 0
    assert cells.finished(OTHER, tmp_path) is None
