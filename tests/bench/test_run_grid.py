"""Grids that run: killed, failing, twice at once; with workers that are real processes, forked to be there at once."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from forked import FORK, Forked
from splitveil import config
from splitveil.bench import driver, worker
from splitveil.bench.cell import run_cell
from splitveil.bench.cells import Cell, Grid
from splitveil.bench.driver import Driver, State, run_grid
from splitveil.bench.folder import GridFolder, finished
from splitveil.bench.lease import CellLease, Owner
from splitveil.bench.worker import Attempts, Worker
from splitveil.errors import UserError
from splitveil.results.records import failures, grids
from training_helpers import settings

ATTACK = {"nearest": config.Spec.model_validate("nearest:neighbors=1,looks=1").resolve("attacks")}


def cell(attacks: dict[str, config.Spec] | None = None, **values: Any) -> Cell:
    about = {"test_size": 60, "defense": ("gaussian:0.1",), **values}
    return Cell(settings(**about).resolve(), ATTACK if attacks is None else attacks, axes=values)


def grid(*some: Cell) -> Grid:
    return Grid("tests", "", some)


def run(wanted: Grid, out: Path, *, jobs: int = 1, retries: int = 2, executor: Any = None) -> State:
    """As `run_grid`, with forked workers."""
    driver.describe(wanted, out)
    one = Driver(wanted, out, retries, lambda _: None)
    if one.begin():
        one.run(executor or Forked(), one.worker(1, None, os.getpid()), jobs)
    return one.state()


def left(out: Path, one: Cell) -> tuple[bytes, Any, Any]:
    """What must not depend on what happened on the way: weights, errors and curve."""
    folder = GridFolder(out).run(one.id)
    record = json.loads((folder / "record.json").read_text())
    errors = {label: attack["mse"] for label, attack in record["attacks"].items()}
    return (folder / "model.safetensors").read_bytes(), errors, record["curve"]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def attempts(out: Path, one: Cell) -> int:
    return GridFolder(out).log(one.id).read_text().count("--- attempt")


def dying(when: Callable[[int], bool], victim: Callable[[], int], pause: float = 0.0) -> Callable[..., Any]:
    """`run_cell`, in which the victim is killed after the steps that ``when`` names, in the first attempt."""
    steps = 0

    def run_and_die(one: Cell, out: Path, *, check: Callable[[], None], attempts: int, **known: Any) -> Any:
        def step() -> None:
            nonlocal steps
            steps += 1
            if attempts == 1 and when(steps):
                os.kill(victim(), signal.SIGKILL)
                time.sleep(pause)
            check()

        return run_cell(one, out, check=step, attempts=attempts, **known)

    return run_and_die


@pytest.fixture
def undisturbed(tmp_path, small) -> Iterator[Callable[[Cell], Any]]:
    def result(one: Cell) -> Any:
        run_cell(one, tmp_path / "undisturbed")
        return left(tmp_path / "undisturbed", one)

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers, or the last digits differ
    yield result
    torch.set_num_threads(before)


@pytest.mark.parametrize("step", [1, 6, 13])  # before the first checkpoint, in the second epoch, before the attack
def test_a_killed_worker_is_replaced_and_the_result_is_the_same(tmp_path, undisturbed, monkeypatch, step):
    one = cell()
    expected = undisturbed(one)
    monkeypatch.setattr(worker, "run_cell", dying(lambda now: now == step, os.getpid))
    state = run(grid(one), tmp_path / "out")
    assert set(state.done) == {one.id}
    assert state.done[one.id].attempts == attempts(tmp_path / "out", one) == 2
    assert left(tmp_path / "out", one) == expected
    assert not GridFolder(tmp_path / "out").attempts(one.id).exists()


def test_a_killed_driver_takes_its_workers_along_and_the_next_one_goes_on(tmp_path, undisturbed, monkeypatch):
    out, some = tmp_path / "out", [cell(seed=seed) for seed in range(2)]
    expected = [undisturbed(one) for one in some]
    monkeypatch.setattr(worker, "WATCH", 0.05)
    monkeypatch.setattr(worker, "run_cell", dying(lambda now: now == 6, os.getppid, pause=60))
    first = FORK.Process(target=run, args=(grid(*some), out))
    first.start()
    first.join(60)
    assert first.exitcode == -signal.SIGKILL
    assert not any(GridFolder(out).record(one.id).exists() for one in some)
    monkeypatch.setattr(worker, "run_cell", run_cell)
    state = run(grid(*some), out)
    assert set(state.done) == {one.id for one in some}
    assert [left(out, one) for one in some] == expected
    assert state.done[some[0].id].attempts == 2


def test_a_failing_cell_is_recorded_and_the_others_go_on(tmp_path, small):
    out, bad, good = tmp_path / "out", cell(lr=1000.0, weight_decay=1e6, warmup_epochs=0.0), cell()
    state = run(grid(bad, good), out, retries=1)
    assert (set(state.done), set(state.failed)) == ({good.id}, {bad.id})
    note = json.loads((out / "failed" / f"{bad.id}.json").read_text())
    assert note == vars(state.failed[bad.id])
    assert note["error"].startswith("UserError: the loss is nan in epoch 1; lower lr")
    assert (note["schema"], note["id"], note["attempts"], note["axes"]) == (
        1,
        bad.id,
        2,
        {"lr": 1000.0, "weight_decay": 1e6, "warmup_epochs": 0.0},
    )
    log = (out / note["log"]).read_text()
    assert log.count("--- attempt") == 2
    assert "Traceback" in log
    assert note["error"].removeprefix("UserError: ") in log


def test_a_failed_cell_is_tried_again_by_the_next_command_and_may_succeed(tmp_path, small, monkeypatch):
    out, one = tmp_path / "out", cell()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the disk is on fire")

    monkeypatch.setattr(worker, "run_cell", broken)
    assert run(grid(one), out, retries=0).failed[one.id].error == "OSError: the disk is on fire"
    assert run(grid(one), out, retries=0).failed[one.id].attempts == 2
    monkeypatch.setattr(worker, "run_cell", run_cell)
    state = run(grid(one), out, retries=0)
    assert (list(state.done), state.failed) == ([one.id], {})
    assert not (out / "failed" / f"{one.id}.json").exists()
    assert state.done[one.id].attempts == 3


def test_a_cell_that_is_always_killed_at_the_same_place_fails(tmp_path, small, monkeypatch):
    def deadly(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(worker, "run_cell", deadly)
    one = cell()
    note = run(grid(one), tmp_path / "out", retries=1).failed[one.id]
    assert (note.attempts, note.error) == (2, worker.KILLED)


def test_a_cell_that_is_killed_often_but_gets_on_does_not_fail(tmp_path, undisturbed, monkeypatch):
    one = cell(epochs=4)
    expected = undisturbed(one)
    killing = dying(lambda now: now == 5, os.getpid)  # four steps an epoch: each attempt leaves one epoch behind

    def always(one: Cell, out: Path, *, attempts: int, **known: Any) -> Any:
        return killing(one, out, attempts=1 if attempts < 4 else attempts, **known)

    monkeypatch.setattr(worker, "run_cell", always)
    state = run(grid(one), tmp_path / "out", retries=0)
    assert attempts(tmp_path / "out", one) == 4
    assert left(tmp_path / "out", one) == expected
    assert not state.failed


def test_the_same_command_again_does_nothing(tmp_path, small):
    out, wanted = tmp_path / "out", grid(cell())
    run(wanted, out)
    before = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*")}
    state = run_grid(wanted, out, on="local")
    assert set(state.done) == {one.id for one in wanted.cells}
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*")} == before


def test_two_commands_at_once_train_each_cell_once(tmp_path, small):
    out, some = tmp_path / "out", [cell(seed=seed) for seed in range(4)]
    answers = FORK.Queue()

    def command() -> None:
        answers.put(set(run(grid(*some), out).done))

    commands = [FORK.Process(target=command) for _ in range(2)]
    for one in commands:
        one.start()
    found = [answers.get(timeout=60) for _ in commands]
    for one in commands:
        one.join(60)
    assert found == [{one.id for one in some}] * 2  # each has waited for the other's cells
    assert [attempts(out, one) for one in some] == [1] * 4


def test_a_cell_that_another_command_has_is_left_alone_until_it_is_free(tmp_path, small):
    out, one = tmp_path / "out", cell()
    held = CellLease(GridFolder(out).lock(one))
    assert held.claim("another")
    seen: list[State] = []

    def watch(state: State) -> None:
        seen.append(state)
        if len(seen) == 2:
            held.release()

    driver.describe(grid(one), out)
    waiting = Driver(grid(one), out, 2, watch)
    assert waiting.begin()
    waiting.run(Forked(), waiting.worker(1, None, os.getpid()), 1)
    assert [(len(state.running), len(state.own), len(state.free)) for state in seen[:2]] == [(1, 0, 0)] * 2
    assert set(waiting.done) == {one.id}


def test_a_worker_that_lost_its_lock_stops(tmp_path, small):
    out, one = tmp_path / "out", cell()
    held = CellLease(GridFolder(out).lock(one), heartbeat=0.01, duration=1)
    assert held.claim()
    CellLease(GridFolder(out).lock(one))._lease.force_break()
    until(lambda: held.lost)
    late = Worker((one,), out, "tests", 2, "job")
    assert not late._attempt(one, held, Attempts(), worker.ImageSets())
    held.release()
    assert "was taken over" in GridFolder(out).log(one.id).read_text()
    assert not GridFolder(out).record(one.id).exists()
    assert not GridFolder(out).failed(one.id).exists()


def test_workers_that_end_before_they_begin_are_an_error(tmp_path, small, monkeypatch):
    monkeypatch.setattr(driver, "POLL", 0.01)

    class Broken(Forked):
        def start(self, work: Callable[[], Any], name: str, slot: int) -> Any:
            return super().start(lambda: os._exit(7), name, slot)

    with pytest.raises(UserError, match=r"^3 workers in a row ended without taking a cell: exit code 7$"):
        run(grid(cell()), tmp_path / "out", executor=Broken())


def test_an_interrupted_driver_leaves_no_worker_behind(tmp_path, small, monkeypatch):
    out, one = tmp_path / "out", cell(epochs=10_000)
    driver.describe(grid(one), out)
    owners: list[Owner] = []

    def interrupt(state: State) -> None:
        owners.extend(state.running.values())
        if owners:
            raise KeyboardInterrupt

    stopped = Driver(grid(one), out, 2, interrupt)
    stopped.begin()
    with pytest.raises(KeyboardInterrupt):
        stopped.run(Forked(), stopped.worker(1, None, os.getpid()), 1)
    assert not worker.alive(owners[0].pid)
    assert CellLease(GridFolder(out).lock(one)).owner() is None


def test_another_attack_trains_nothing_anew(tmp_path, small):
    out = tmp_path / "out"
    first, two = cell(), {**ATTACK, "linear": config.Spec.model_validate("linear:looks=1").resolve("attacks")}
    run(grid(first), out)
    weights = GridFolder(out).run(first.id) / "model.safetensors"
    before = weights.stat().st_mtime_ns
    more = cell(attacks=two)
    assert more.id == first.id
    assert finished(more, out) is None
    state = run(grid(more), out)
    assert set(state.done[more.id].attacks) == {"nearest", "linear"}
    assert weights.stat().st_mtime_ns == before
    assert finished(first, out) is not None


def test_what_a_kill_left_half_written_is_in_nobodys_way(tmp_path, undisturbed):
    out, one = tmp_path / "out", cell()
    expected = undisturbed(one)
    folder = GridFolder(out).run(one.id)
    folder.mkdir(parents=True)
    (folder / ".config.yaml.x1.tmp").write_text("data: dig")  # a training refuses such a folder
    run_cell(one, out)
    assert left(out, one) == expected
    (folder / "attacks" / "nearest" / ".summary.json.x2.tmp").write_text("{")
    run_cell(one, out)
    assert not list(folder.rglob("*.tmp*"))


@pytest.mark.parametrize("place", ["tries", "failed", "grids"])
def test_a_note_that_is_not_written_yet_is_read_by_nobody(tmp_path, small, place):
    one = cell()
    run(grid(one), tmp_path)
    (tmp_path / place).mkdir(exist_ok=True)
    for name in (".note.json.x1.tmp", ".note.json.x2.tmp.json"):  # as now, and as earlier versions named them
        (tmp_path / place / name).touch()
    more = cell(seed=1)
    assert set(run(grid(one, more), tmp_path).done) == {one.id, more.id}
    assert failures(tmp_path) == []
    assert len(grids(tmp_path)) == 1


def test_images_that_have_moved_do_not_stop_a_cell(tmp_path, small):
    out, one = tmp_path / "out", cell()
    run_cell(one, out)
    moved = Cell(one.settings.model_copy(update={"root": tmp_path / "moved"}), one.attacks)
    assert moved.id == one.id
    kept = finished(one, out)
    assert kept is not None
    assert run_cell(moved, out)["accuracy"] == kept.accuracy.as_dict()


def test_the_number_of_threads_is_set_and_recorded(tmp_path, small, monkeypatch):
    found: list[int] = []
    before, one = torch.get_num_threads(), cell()
    monkeypatch.setattr(worker, "run_cell", lambda *_, **__: found.append(torch.get_num_threads()))
    try:
        assert Worker((one,), tmp_path, "tests", 2, "job", threads=before + 1, limit=1)() == 1
    finally:
        torch.set_num_threads(before)
    assert found == [before + 1]
    assert run_cell(one, tmp_path)["environment"]["threads"] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on": "slrm"}, r"^unknown executor 'slrm'; did you mean 'slurm'\? expected one of: local, ray, slurm$"),
        ({"jobs": 0}, r"^--jobs is 0; expected at least 1$"),
        ({"threads": 0}, r"^--threads is 0; expected at least 1$"),
        ({"retries": -1}, r"^--retries is -1; expected at least 0$"),
        ({"gpus_per_cell": -0.5}, r"^--gpus-per-cell is -0\.5; expected 0 or more"),
    ],
)
def test_numbers_and_names_that_cannot_be(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run_grid(grid(cell()), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match=r"^cannot write .*out.*; free some space or choose another folder$"):
        run_grid(grid(cell()), tmp_path / "out")


def test_a_record_of_another_schema_is_refused(tmp_path):
    path = GridFolder(tmp_path).record(cell().id)
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 2}')
    with pytest.raises(UserError, match="schema 2"):
        run_grid(grid(cell()), tmp_path)


def test_an_attack_of_another_grid_stays_in_the_record(tmp_path, small):
    linear = {"linear": config.Spec.model_validate("linear:looks=1").resolve("attacks")}
    both = run_cell(cell(attacks=ATTACK | linear), tmp_path / "both")
    run_cell(cell(attacks=linear), tmp_path / "out")
    found = run_cell(cell(), tmp_path / "out")
    assert set(found["attacks"]) == {"nearest", "linear"}
    assert found["worst_case"] == both["worst_case"]  # else the nearest image alone would be called the worst case
    changed = {"linear": config.Spec.model_validate("linear:looks=2").resolve("attacks")}
    again = run_cell(cell(attacks=changed), tmp_path / "out")
    assert again["attacks"]["linear"]["attack"]["linear"]["looks"] == 2
    fewer = Cell(cell().settings, ATTACK, attacked=4)
    assert set(run_cell(fewer, tmp_path / "out")["attacks"]) == {"nearest"}  # the others attacked other images


def test_an_attacker_that_wants_too_many_images_is_refused_before_the_training(tmp_path, small):
    one = Cell(cell().settings, ATTACK, attacker_size=100_000)
    with pytest.raises(UserError, match=r"^attacker size is 100000; expected 2 to \d+, which protocol \w+ has for it"):
        run_cell(one, tmp_path)
    assert not GridFolder(tmp_path).run(one.id).exists()
