"""Workers started through submitit: processes of this machine, and jobs of a Slurm that is played by four scripts."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from splitveil.bench.executors import submitit_jobs
from splitveil.bench.executors.submitit_jobs import Local, Slurm, slurm_parameters
from splitveil.errors import UserError

SBATCH = """#!/bin/bash
# Runs the script at once in the background, as the job with the number of its process.
set -m
script=$1
cp "$script" "$SLURM_STUB/script"
(sleep 0.2; export SLURM_JOB_ID=$BASHPID SLURM_PROCID=0 SLURM_NTASKS=1; bash "$script") > /dev/null 2>&1 &
echo "Submitted batch job $!"
"""
SRUN = """#!/bin/bash
# srun --unbuffered --output FILE COMMAND...
out=${3//%j/$SLURM_JOB_ID}; shift 3
exec "$@" >> "${out//%t/0}" 2>&1
"""
SACCT = """#!/bin/bash
# sacct -o ... --parsable2 -j ID ...
echo "JobID|State|NodeList"
while [ $# -gt 0 ]; do
    if [ "$1" = -j ]; then kill -0 "$2" 2> /dev/null && echo "$2|RUNNING|here" || echo "$2|FAILED|here"; fi
    shift
done
"""
SCANCEL = """#!/bin/bash
kill -9 -- "-$1"
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A Slurm that runs its jobs at once."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT, "scancel": SCANCEL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STUB", str(folder))
    monkeypatch.setattr(submitit_jobs, "ASK_EVERY", 0.1)
    monkeypatch.setattr(submitit_jobs, "NETWORK", 0.5)
    return folder


def report(path: Path) -> None:
    """Work that says in what surroundings it is done."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SUBMITIT_EXECUTOR")
    path.write_text(repr({name: os.environ.get(name) for name in names}))


def fail() -> None:
    raise OSError("no such luck")


def ended(job: Any, seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not job.ended() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert job.ended()
    return job


def plain(function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Work that a process can load without this file, and so without torch: it starts at once."""
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return functools.partial(function, *arguments)


def test_a_local_worker_has_its_threads_and_gpus_and_leaves_no_litter(tmp_path, monkeypatch):
    monkeypatch.setattr(submitit_jobs, "gpus_here", lambda: ["3", "GPU-a", "7"])
    executor = Local(tmp_path / "logs", threads=3, devices=2)
    job = ended(executor.start(plain(report, tmp_path / "seen"), "a", 1))
    assert job.problem() is None
    assert eval((tmp_path / "seen").read_text()) == {
        "OMP_NUM_THREADS": "3",
        "MKL_NUM_THREADS": "3",
        "CUDA_VISIBLE_DEVICES": "7,3",
        "SUBMITIT_EXECUTOR": "local",
    }
    assert not (tmp_path / "logs" / "a").exists()


def test_a_local_worker_that_fails_is_quoted(tmp_path):
    executor = Local(tmp_path / "logs", threads=1, devices=1)
    problem = ended(executor.start(plain(fail), "a", 0)).problem()
    assert problem
    assert problem.startswith("OSError: no such luck (all of it: ")
    log = Path(problem.rpartition("all of it: ")[2].rstrip(")"))
    deadline = time.monotonic() + 60  # the result is there before the last words of the log
    while "Traceback" not in log.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "Traceback" in log.read_text()


def test_a_local_worker_that_is_killed_has_ended(tmp_path):
    executor = Local(tmp_path / "logs", threads=1, devices=1)
    job = executor.start(plain(lambda: os.kill(os.getpid(), signal.SIGKILL)), "a", 0)
    assert "(all of it: " in (ended(job).problem() or "")


def test_ctrl_c_reaches_the_driver_only(tmp_path):
    executor = Local(tmp_path / "logs", threads=1, devices=1)
    job = executor.start(plain(time.sleep, 60), "a", 0)
    number = int(job.job.job_id)
    os.kill(number, signal.SIGINT)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    time.sleep(0.3)
    assert not job.ended()
    job.stop()
    assert ended(job).problem() is None
    assert not (tmp_path / "logs" / "a").exists()


def test_a_slurm_worker(tmp_path, slurm):
    executor = Slurm(tmp_path / "logs", threads=2, parameters=["partition=gpu", "gpus_per_node=1", "setup=ulimit -c 0"])
    job = ended(executor.start(plain(report, tmp_path / "seen"), "a", 0))
    assert job.problem() is None
    seen = eval((tmp_path / "seen").read_text())
    assert (seen["OMP_NUM_THREADS"], seen["SUBMITIT_EXECUTOR"]) == ("2", "slurm")
    script = (slurm / "script").read_text()
    for line in ("partition=gpu", "gpus-per-node=1", f"time={submitit_jobs.MINUTES}", "cpus-per-task=2"):
        assert f"#SBATCH --{line}\n" in script
    assert "\nulimit -c 0\n" in script


def test_a_slurm_worker_that_fails_or_is_killed_has_ended(tmp_path, slurm):
    executor = Slurm(tmp_path / "logs", threads=1, parameters=[])
    problem = ended(executor.start(plain(fail), "a", 0)).problem()
    assert (problem or "").startswith("OSError: no such luck (all of it: ")
    job = executor.start(plain(time.sleep, 60), "b", 0)
    os.killpg(int(job.job.job_id), signal.SIGKILL)
    assert ended(job).problem()
    job = executor.start(plain(time.sleep, 60), "c", 0)
    job.stop()
    assert ended(job).problem() is None


def test_slurm_that_refuses_a_job_is_one_line(tmp_path, slurm, capsys):
    (slurm / "sbatch").write_text("#!/bin/bash\necho 'sbatch: error: invalid partition specified: gqu' >&2; exit 1\n")
    executor = Slurm(tmp_path / "logs", threads=1, parameters=["partition=gqu"])
    with pytest.raises(UserError, match=r"^Slurm refuses the job: .*invalid partition specified: gqu; see --slurm$"):
        executor.start(plain(fail), "a", 0)
    assert capsys.readouterr().err == ""


def test_no_slurm_here(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"^there is no Slurm here: .*; use --on local or --on ray$"):
        Slurm(tmp_path, threads=1, parameters=[])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partition", "expected key=value"),
        ("partition=", "expected key=value"),
        ("partitoin=gpu", "did you mean 'partition'?"),
        ("time=24:00:00", "expected minutes as a whole number"),
        ("time=0", "expected minutes as a whole number"),
    ],
)
def test_parameters_of_slurm_that_cannot_be(text, message):
    with pytest.raises(UserError) as refused:
        slurm_parameters([text])
    assert message in str(refused.value)


def test_a_missing_submitit_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"^grids need the package submitit; pip install 'splitveil\[all\]'$"):
        Local(tmp_path, threads=1, devices=1)
