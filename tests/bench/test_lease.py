"""Who may work on a cell: one process at a time, whatever dies, sleeps or comes at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitveil.bench.lease import CellLease, Owner
from splitveil.errors import UserError

FORK = multiprocessing.get_context("fork")
SHORT: dict[str, float] = {"heartbeat": 0.01, "duration": 0.2}


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "locks" / "cell.lock"


def until(true: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hold(path: Path, job: str, seconds: float, **terms: float) -> None:
    """Take a lock and die without giving it back."""
    held = CellLease(path, **terms)
    assert held.claim(job)
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def leave_dead(path: Path, **terms: float) -> None:
    """A lock whose owner was killed."""
    process = FORK.Process(target=hold, args=(path, "gone", 0), kwargs=terms)
    process.start()
    process.join(60)
    assert path.exists()


def move_elsewhere(path: Path) -> None:
    """What this machine's lock would look like if another machine had made it."""
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(about | {"host": "another-machine"}))
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{'host=another-machine' if line.startswith('host=') else line}\n" for line in lines))


def test_one_holds_it_until_it_is_released(path):
    held, other = CellLease(path), CellLease(path)
    assert held.claim("job")
    assert not other.claim()
    owner = other.owner()
    assert owner
    assert (owner.job, owner.pid) == ("job", os.getpid())
    held.release()
    assert other.owner() is None
    assert not list(path.parent.iterdir())
    assert other.claim()
    with other:
        assert not held.claim()
    assert held.claim()
    held.release()


def test_a_lock_whose_owner_died_as_it_took_it_is_freed(path):
    """The file is made first and the name written into it afterwards."""
    path.parent.mkdir()
    path.touch()
    look = CellLease(path, **SHORT)
    assert not look.claim()
    assert look.owner() == Owner()  # somebody may be about to write its name
    until(lambda: look.owner() is None)
    assert look.claim("job")
    look.release()


def test_the_lock_of_a_killed_process_is_free_at_once(path):
    process = FORK.Process(target=hold, args=(path, "job", 60))
    process.start()
    look = CellLease(path)
    until(lambda: (owner := look.owner()) and owner.job)
    assert not look.claim()
    process.kill()
    process.join()
    assert CellLease(path).owner() is None
    assert not path.exists()
    assert look.claim()
    look.release()


def test_the_lock_of_a_killed_process_that_nobody_has_awaited_is_free_when_its_heart_has_stopped(path):
    process = FORK.Process(target=hold, args=(path, "job", 0), kwargs=SHORT)
    process.start()
    assert process.pid
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but still in the table of processes
    look = CellLease(path, **SHORT)
    assert look.owner()
    until(look.claim)
    look.release()
    process.join()


def test_a_process_number_given_to_another_process_deceives_nobody(path):
    leave_dead(path)
    lines = [f"pid={os.getpid()}" if line.startswith("pid=") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")
    held = CellLease(path)
    assert held.claim()
    held.release()


def test_the_lock_of_another_machine_is_free_when_its_heart_has_stopped(path):
    leave_dead(path, **SHORT)
    move_elsewhere(path)
    look = CellLease(path, **SHORT)
    owner = look.owner()
    assert owner
    assert (owner.host, owner.job) == ("another-machine", "gone")
    os.utime(path, (1, 1))  # its clock is decades behind
    assert not look.claim()
    until(lambda: look.owner() is None)
    assert look.claim()
    look.release()


def test_the_lock_of_another_machine_is_not_free_while_its_heart_beats(path):
    held = CellLease(path, **SHORT)
    assert held.claim("job")
    move_elsewhere(path)
    look, end = CellLease(path, **SHORT), time.monotonic() + 2 * SHORT["duration"]
    while time.monotonic() < end:
        assert look.owner()
        time.sleep(0.01)
    held.release()


def test_the_owner_notices_that_the_lock_is_anothers(path):
    held, other = CellLease(path, heartbeat=0.01), CellLease(path)
    assert held.claim()
    assert not held.lost
    path.unlink()
    assert other.claim("other")
    until(lambda: held.lost)
    held.release()
    owner = held.owner()
    assert owner
    assert owner.job == "other"
    other.release()


def race(path: Path, gate: Any, wins: Any, rounds: int) -> None:
    for number in range(rounds):
        held = CellLease(path.with_name(f"{number}.lock"))
        gate.wait()
        if won := held.claim():
            with wins.get_lock():
                wins[number] += 1
        gate.wait()
        if won:
            held.release()


@pytest.mark.parametrize("stale", [True, False])
def test_of_many_takers_one_wins(path, stale):
    takers, rounds = 6, 20
    if stale:
        leave_dead(path)
        for number in range(rounds):
            path.with_name(f"{number}.lock").write_bytes(path.read_bytes())
    gate, wins = FORK.Barrier(takers, timeout=60), FORK.Array("i", rounds)
    processes = [FORK.Process(target=race, args=(path, gate, wins, rounds)) for _ in range(takers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert wins[:] == [1] * rounds
    assert not list(path.parent.glob("[0-9]*"))


def test_the_lock_of_a_worker_that_is_said_to_be_dead_elsewhere_is_broken(path):
    leave_dead(path)
    move_elsewhere(path)
    look = CellLease(path)
    assert not look.break_("another job")
    assert path.exists()
    assert look.break_("gone")
    assert not path.exists()
    assert not look.break_("gone")


def test_the_lock_of_a_living_worker_of_this_machine_is_not_broken(path):
    held = CellLease(path)
    assert held.claim("a")
    assert not CellLease(path).break_("a")
    assert path.exists()
    held.release()


def test_a_job_that_another_owner_has_left_behind_is_not_the_new_owners(path):
    leave_dead(path)
    about = path.with_suffix(".json").read_text()
    held = CellLease(path)
    assert held.claim("new")
    path.with_suffix(".json").write_text(about)  # as if the new owner had not written its own yet
    owner = held.owner()
    assert owner
    assert owner.job == ""
    assert not held.break_("gone")
    held.release()


@pytest.mark.parametrize("damaged", ["{", '{"process": {}, "token": "t", "job": "j"}', "\0", "[" * 2000])
def test_an_unreadable_lock_such_as_that_of_an_earlier_version_is_free_after_a_while(path, damaged):
    path.parent.mkdir()
    path.write_text(damaged)
    look = CellLease(path)
    assert not look.claim()
    assert look.owner() == Owner()
    until(look.claim)
    look.release()


def test_a_lock_with_another_duration_is_anothers(path):
    held, look = CellLease(path), CellLease(path, duration=100)
    assert held.claim("job")
    move_elsewhere(path)
    assert not look.claim()
    owner = look.owner()
    assert owner
    assert owner.job == "job"
    held.release()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(UserError, match=r"^cannot lock .*cell\.lock: .*; choose another folder for --out$"):
        CellLease(tmp_path / "locks" / "cell.lock").claim()
