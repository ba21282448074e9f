"""Who may work on a cell: one process at a time, whatever dies, sleeps or comes at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from splitveil.bench import lease
from splitveil.errors import UserError

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "locks" / "cell.lock"


def leave(path: Path, process: lease.Process, job: str = "") -> lease.Owner:
    """A lock file as ``process`` would have made it."""
    owner = lease.Owner(process, "token", job)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(owner)))
    return owner


def dead() -> lease.Process:
    """A process that was."""
    with FORK.Pool(1) as pool:
        return pool.apply(lease.Process.here)


def elsewhere() -> lease.Process:
    return replace(lease.Process.here(), host="another machine")


def age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_one_holds_it_until_it_is_released(path):
    held = lease.claim(path, "job")
    assert held
    assert lease.claim(path) is None
    assert lease.holder(path) == held.owner
    assert held.owner.process == lease.Process.here()
    held.release()
    assert lease.holder(path) is None
    assert [file.name for file in path.parent.iterdir()] in ([], [".clock"])
    with lease.claim(path) or pytest.fail("it is free"):
        assert lease.claim(path) is None


def test_that_of_a_dead_process_is_free(path):
    leave(path, dead())
    assert lease.holder(path) is None
    held = lease.claim(path)
    assert held
    assert lease.holder(path) == held.owner
    held.release()


def test_that_of_a_killed_process_is_free_before_anybody_has_buried_it(path):
    process = FORK.Process(target=lambda: lease.claim(path) and time.sleep(60))
    process.start()
    while not (owner := lease.holder(path)):
        time.sleep(0.01)
    assert owner.process.pid == process.pid
    assert lease.claim(path) is None
    os.kill(owner.process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, owner.process.pid, os.WEXITED | os.WNOWAIT)  # dead, but still in the table of processes
    assert owner.process.alive() is False
    held = lease.claim(path)
    assert held
    held.release()
    process.join()


def test_a_process_number_given_to_another_process_deceives_nobody(path):
    leave(path, replace(lease.Process.here(), started="long ago"))
    held = lease.claim(path)
    assert held
    held.release()


def test_that_of_another_machine_is_free_when_its_heart_has_stopped(path):
    owner = leave(path, elsewhere())
    assert owner.process.alive() is None
    assert lease.holder(path) == owner
    assert lease.claim(path) is None
    age(path, lease.STALE - 10)
    assert lease.claim(path) is None
    age(path, lease.STALE + 10)
    assert lease.holder(path) is None
    held = lease.claim(path)
    assert held
    held.release()


def test_the_age_of_a_lock_is_told_by_the_file_systems_clock(path, monkeypatch):
    leave(path, elsewhere())
    monkeypatch.setattr(time, "time", lambda: 4e9)  # a machine whose clock is decades ahead
    assert lease.claim(path) is None


def test_the_heart_beats_and_notices_that_the_lock_is_anothers(path):
    held = lease.claim(path, heartbeat=0.01)
    assert held
    age(path, 1000)
    deadline = time.monotonic() + 30
    while path.stat().st_mtime < time.time() - 500 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.stat().st_mtime > time.time() - 500
    assert not held.lost
    other = leave(path, elsewhere())
    while not held.lost and time.monotonic() < deadline:
        time.sleep(0.01)
    assert held.lost
    held.release()
    assert lease.holder(path) == other


def race(path: Path, gate: Any, wins: Any, rounds: int) -> None:
    for number in range(rounds):
        gate.wait()
        if held := lease.claim(path.with_name(f"{number}.lock")):
            with wins.get_lock():
                wins[number] += 1
        gate.wait()
        if held:
            held.release()


@pytest.mark.parametrize("stale", [True, False])
def test_of_many_takers_one_wins(path, stale):
    takers, rounds = 6, 30
    if stale:
        gone = dead()
        for number in range(rounds):
            leave(path.with_name(f"{number}.lock"), gone)
    gate, wins = FORK.Barrier(takers, timeout=60), FORK.Array("i", rounds)
    processes = [FORK.Process(target=race, args=(path, gate, wins, rounds)) for _ in range(takers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert wins[:] == [1] * rounds
    assert not list(path.parent.glob("*.lock"))
    assert not list(path.parent.glob(".*.lock.*"))


def test_a_taker_that_comes_second_finds_that_the_file_is_another(path, monkeypatch):
    leave(path, dead())
    judge, second, found = lease._dead, threading.Event(), []
    thread = threading.Thread(target=lambda: found.append(lease.claim(path)))

    def slow(*arguments: Any) -> bool:
        verdict = judge(*arguments)
        if not second.is_set():  # the old lock is judged and not yet replaced: now another taker comes
            second.set()
            thread.start()
            thread.join(0.3)
        return verdict

    monkeypatch.setattr(lease, "_dead", slow)
    held = lease.claim(path)
    thread.join(30)
    assert found == [None]
    assert held
    assert lease.holder(path) == held.owner
    held.release()


def test_a_lock_that_was_replaced_while_one_waited_is_the_next_ones_to_judge(path, monkeypatch):
    leave(path, dead())
    newer = path.with_name("newer")  # of a taker that has died too: a third may be about to take it over
    newer.write_text(path.read_text())
    flock = lease.fcntl.flock

    def wait(file: Any, operation: int) -> None:
        if newer.exists():
            os.replace(newer, path)
        flock(file, operation)

    monkeypatch.setattr(lease.fcntl, "flock", wait)
    assert lease.claim(path) is None
    held = lease.claim(path)
    assert held
    held.release()


def test_the_lock_of_a_worker_that_is_said_to_be_dead_is_broken(path):
    leave(path, elsewhere(), job="a")
    assert not lease.break_(path, "b")
    assert path.exists()
    assert lease.break_(path, "a")
    assert not path.exists()
    assert not lease.break_(path, "a")


def test_but_not_where_it_is_seen_alive(path):
    with lease.claim(path, "a") or pytest.fail("it is free"):
        assert not lease.break_(path, "a")
        assert path.exists()


def test_an_unreadable_lock_is_free_after_a_while(path):
    path.parent.mkdir()
    path.write_text("{")
    assert lease.claim(path) is None
    age(path, lease.STALE + 10)
    held = lease.claim(path)
    assert held
    held.release()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "locks").write_text("a file")
    with pytest.raises(UserError, match=r"^cannot lock .*cell\.lock: .*; choose another folder for --out$"):
        lease.claim(tmp_path / "locks" / "cell.lock")
    with pytest.raises(UserError, match=r"^cannot write .*\.clock: .*; choose another folder for --out$"):
        lease.clock(tmp_path / "locks")
