"""Cells that differ only in who attacks: trained once, and the same as if they had been trained twice."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from forked import Forked
from splitveil import config, runs
from splitveil.bench import cell as cells
from splitveil.bench import forecast
from splitveil.bench.cell import run_cell
from splitveil.bench.cells import Cell, Grid
from splitveil.bench.driver import Driver
from splitveil.bench.folder import GridFolder, finished
from splitveil.bench.lease import CellLease
from splitveil.bench.worker import Worker
from training_helpers import settings

ATTACK = {"nearest": config.Spec.model_validate("nearest:neighbors=1,looks=1").resolve("attacks")}


def cell(protocol: str, **values: Any) -> Cell:
    about = {"test_size": 60, "defense": ("gaussian:0.1",), **values}
    return Cell(settings(**about).model_copy(update={"protocol": protocol}).resolve(), ATTACK)


ONE, OTHER = cell("train_time"), cell("inference_time")


def left(out: Path, one: Cell) -> tuple[Any, ...]:
    folder = GridFolder(out).run(one.id)
    record = json.loads((folder / "record.json").read_text())
    files = [(folder / name).read_bytes() for name in ("model.safetensors", "test.csv")]
    errors = (folder / "attacks" / "nearest" / "per_image.csv").read_bytes()
    return *files, errors, *(record[key] for key in ("curve", "accuracy", "config", "protocol", "test_digest"))


def test_a_training_that_is_shared_is_what_training_again_gives(tmp_path, small):
    run_cell(OTHER, tmp_path / "alone")
    run_cell(ONE, tmp_path / "both")
    record = run_cell(OTHER, tmp_path / "both")
    assert left(tmp_path / "both", OTHER) == left(tmp_path / "alone", OTHER)
    assert record["trained_as"] == ONE.id
    assert not (GridFolder(tmp_path / "both").run(OTHER.id) / "checkpoint").exists()  # it was never trained
    opened = runs.Run.open(GridFolder(tmp_path / "both").run(OTHER.id))
    assert opened.settings.protocol == "inference_time"
    assert "trained_as" not in json.loads(GridFolder(tmp_path / "both").record(ONE.id).read_text())


def test_links_that_were_not_all_made_are_made_again(tmp_path, small, monkeypatch):
    run_cell(ONE, tmp_path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cells, "write_text", killed)  # the last file
        with pytest.raises(KeyboardInterrupt):
            run_cell(OTHER, tmp_path)
    assert run_cell(OTHER, tmp_path)["trained_as"] == ONE.id


def test_where_the_shared_folder_was_removed_the_training_is_made_again(tmp_path, small):
    run_cell(ONE, tmp_path)
    first = run_cell(OTHER, tmp_path)
    folder = GridFolder(tmp_path).run(OTHER.id)
    weights = (folder / "model.safetensors").read_bytes()
    shutil.rmtree(GridFolder(tmp_path).run(ONE.id))
    (folder / "record.json").unlink()
    again = run_cell(OTHER, tmp_path)
    assert "trained_as" not in again
    assert again["accuracy"] == first["accuracy"]
    assert (folder / "model.safetensors").read_bytes() == weights


def test_a_cell_is_made_again_although_another_has_links_to_its_removed_folder(tmp_path, small):
    run_cell(ONE, tmp_path)
    first = run_cell(OTHER, tmp_path)
    theirs = GridFolder(tmp_path).run(OTHER.id)
    summary = (theirs / "summary.json").read_bytes()
    (theirs / "summary.json").unlink()
    (theirs / "summary.json").write_bytes(summary)  # a file of its own, as after its tail was trained anew
    shutil.rmtree(GridFolder(tmp_path).run(ONE.id))
    assert run_cell(ONE, tmp_path)["accuracy"] == first["accuracy"]
    assert runs.Run.open(theirs).digest()  # its links lead somewhere again


def test_a_bench_folder_may_be_moved(tmp_path, small):
    run_cell(ONE, tmp_path / "here")
    run_cell(OTHER, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert runs.Run.open(GridFolder(tmp_path / "there").run(OTHER.id)).summary["epoch"] >= 0


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
    assert (GridFolder(tmp_path).run(OTHER.id) / "checkpoint").exists()


def test_which_cells_share_a_training():
    assert ONE.trained_alike == OTHER.trained_alike == tuple(sorted([ONE.id, OTHER.id]))
    auxiliary = cell("auxiliary")
    assert auxiliary.trained_alike == (auxiliary.id,)  # the attacker's images are taken from the training
    assert not {ONE.id, OTHER.id} & {*cell("train_time", seed=1).trained_alike}


def test_one_worker_at_a_time_is_at_the_cells_that_share_a_training(tmp_path, small):
    third = cell("train_time", seed=1)
    held = CellLease(GridFolder(tmp_path).lock(ONE))
    assert held.claim("another", ONE.id)
    worker, leases = Worker((OTHER, third), tmp_path, "tests", 2, "job"), {}
    taken = worker._take(set(), leases)
    assert taken
    assert taken[0] == third
    watched = Driver(Grid("tests", "", (ONE, OTHER, third)), tmp_path, 2, lambda _: None)
    watched.begin()
    state = watched.state()
    assert ({*state.running}, state.waiting, state.free) == ({ONE.id, third.id}, (OTHER,), ())
    held.release()
    assert watched.state().free == (ONE, OTHER)
    taken = worker._take(set(), leases)
    assert taken
    assert taken[0] == OTHER
    for lease in leases.values():
        lease.release()


def test_the_same_grid_with_both_protocols_is_done_by_several_workers(tmp_path, small):
    some = (ONE, OTHER, cell("train_time", seed=1), cell("inference_time", seed=1))
    driver = Driver(Grid("tests", "", some), tmp_path, 0, lambda _: None)
    driver.begin()
    driver.run(Forked(), driver.worker(1, None, os.getpid()), 2)
    assert {*driver.done} == {one.id for one in some}
    assert sum(record.trained_as is not None for record in driver.done.values()) == 2


def test_a_plan_counts_the_training_once(tmp_path, small, monkeypatch):
    def tried(cell: Cell, some: list[Cell], *_: Any) -> forecast.Kind:
        attacks = {forecast._attacker(one): {"nearest": 0.0} for one in some}
        about = {"name": "", "cells": len(some), "loss": 0.0, "step": 1.0, "image": 1.0, "attacks": attacks}
        return forecast.Kind(**about, disk=0, memory=0, wire=8, seconds=0.0)

    monkeypatch.setattr(forecast, "_tried", tried)

    def training(*some: Cell) -> float:
        return forecast.estimate(Grid("tests", "", some), tmp_path).groups[0].training

    assert training(ONE) == training(OTHER) == training(ONE, OTHER) > 0
    run_cell(ONE, tmp_path)
    assert training(ONE, OTHER) == 0
    assert finished(OTHER, tmp_path) is None
