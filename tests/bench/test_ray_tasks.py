"""How the bench room speaks to Ray, with a Ray that is played; benchmarks/survival.py kills a node of a real one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from splitveil.bench.executors.ray_tasks import OnRay
from splitveil.errors import UserError


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class Stage:
    """The part of Ray that is used; tasks run when they are waited for."""

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)

    def __init__(self, **resources: float):
        self.resources, self.up, self.said = resources, False, {}

    def is_initialized(self) -> bool:
        return self.up

    def init(self, **options: Any) -> None:
        if options["address"] == "nowhere:1":
            raise ConnectionError("Could not connect.\nA page of advice")
        if options["address"] == "far":
            raise OSError("validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /t/x")
        self.up, self.said = True, options

    def shutdown(self) -> None:
        self.up = False

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def remote(self, function: Callable[..., Any]) -> Any:
        def options(**given: Any) -> Any:
            self.said = given
            return SimpleNamespace(remote=lambda *arguments: lambda: function(*arguments))

        return SimpleNamespace(options=options)

    def wait(self, tasks: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return tasks, []

    def get(self, task: Callable[[], Any]) -> Any:
        return task()

    def cancel(self, task: Any, force: bool) -> None:
        self.said = {"canceled": force}


@pytest.fixture
def stage(monkeypatch) -> Callable[..., Stage]:
    def set_up(**resources: float) -> Stage:
        ray = Stage(**resources)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return set_up


def executor(**options: Any) -> OnRay:
    return OnRay(**{"address": None, "threads": 1, "devices": 1, "gpus_per_cell": None, **options})


def test_a_part_of_a_gpu_for_each_cell(stage):
    ray = stage(CPU=16.0, GPU=2.0)
    four = executor(gpus_per_cell=0.25)
    assert (four.capacity(), four.limit) == (8, 1)
    assert executor().capacity() == 2  # a whole one, where there are any
    assert executor(gpus_per_cell=0.1).capacity() == 16  # not 19: there are so many cores
    assert executor(gpus_per_cell=0.2).capacity() == 10
    assert executor(devices=2, threads=3).capacity() == 1
    assert executor(gpus_per_cell=0, threads=4).capacity() == 4
    job = four.start(Path.cwd, "a", 0)
    assert ray.said["num_gpus"] == 0.25
    assert ray.said["num_cpus"] == 1
    assert ray.said["max_retries"] == 0
    assert ray.said["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == "1"
    assert job.ended()
    assert job.problem() is None
    job.stop()
    assert ray.said == {"canceled": True}


def test_without_gpus_none_is_asked_for(stage):
    ray = stage(CPU=3.0)
    executor(threads=1).start(Path.cwd, "a", 0)
    assert ray.said["num_gpus"] == 0


def test_a_worker_is_where_the_command_was_given(stage, tmp_path, monkeypatch):
    stage(CPU=1.0)
    monkeypatch.chdir(tmp_path)
    job = executor().start(Path.cwd, "a", 0)
    monkeypatch.chdir("/")
    assert job.task() == tmp_path


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RayTaskError("ray::task()\n  File x\nUserError: cannot write"), "UserError: cannot write"),
        (RayError("The node died.\nA page of advice"), "The node died."),
    ],
)
def test_the_last_words_of_a_worker(stage, error, said):
    stage(CPU=1.0)

    def fail() -> None:
        raise error

    assert executor().start(fail, "a", 0).problem() == said


def test_a_cluster_of_somebody_else_is_left_running(stage):
    ray = stage(CPU=1.0)
    executor().close()
    assert not ray.up
    ray.up = True
    executor().close()
    assert ray.up


def test_what_cannot_be_is_one_line(stage, monkeypatch):
    ray = stage(CPU=2.0, GPU=1.0)
    with pytest.raises(
        UserError, match=r"^no Ray cluster at nowhere:1: Could not connect\.; begin one with `ray start"
    ):
        executor(address="nowhere:1")
    with pytest.raises(UserError, match=r"^Ray cannot begin a cluster .*validate_socket_filename failed; .*RAY_TMP"):
        executor(address="far")
    with pytest.raises(UserError, match=r"^a cell takes 4 cores and 1 GPUs, but the Ray cluster has 2 and 1; lower"):
        executor(threads=4)
    assert not ray.up
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"^--on ray needs the package ray; pip install 'splitveil\[all\]'$"):
        executor()
