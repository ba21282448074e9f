"""Two processes, one folder; and what surrounds a process does not decide how its training starts."""

import signal
import subprocess
import sys
import textwrap

import pytest

from splitveil import runs
from splitveil.config import Spec
from splitveil.errors import UserError
from splitveil.evaluation.evaluate import attack_run
from splitveil.storage.claims import LOCK, claimed
from training_helpers import IMAGES, fit

SLURM = {
    "two tasks": {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "1"},
    "four tasks": {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "4"},
    "two variables": {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train"},
    "a whole job": {
        **{"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_NNODES": "1"},
        **{"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost"},
    },
    "torchrun": {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1"},
    "nodes": {"NODE_RANK": "3", "GROUP_RANK": "3", "MASTER_PORT": "no number"},
}


def hold(folder):
    """Start a process that holds ``folder`` until it is ended."""
    code = f"""
        from splitveil.storage.claims import claimed
        import sys, time
        with claimed({str(folder)!r}, "training"):
            print("held", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("resume", [False, True])
def test_the_second_training_in_a_folder_is_refused_and_changes_nothing(tmp_path, small, resume):
    holder = hold(tmp_path / "run")
    try:
        with pytest.raises(UserError, match="in use by another training; wait until it ends"):
            fit(tmp_path / "run", resume=resume, epochs=2)
        assert [path.name for path in (tmp_path / "run").iterdir()] == [LOCK]
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_the_claim_of_a_killed_process_is_taken_over(tmp_path, end):
    holder = hold(tmp_path / "run")
    holder.send_signal(end)
    holder.wait()
    with claimed(tmp_path / "run", "training"):
        pass
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_folder_that_only_a_killed_training_has_locked_can_be_trained_in(tmp_path, small):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).touch()
    fit(tmp_path / "run", epochs=2)
    assert not (tmp_path / "run" / LOCK).exists()


def test_of_many_that_start_together_one_works(tmp_path):
    code = f"""
        from splitveil.storage.claims import claimed
        from splitveil.errors import UserError
        import pathlib, time
        for turn in range(200):
            try:
                with claimed({str(tmp_path / "run")!r}, "test"):
                    mine = pathlib.Path({str(tmp_path / "run")!r}) / "alone"
                    mine.touch(exist_ok=False)  # fails where another is here too
                    mine.unlink()
            except UserError:
                pass
    """
    processes = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4


def test_a_failure_leaves_no_folder_behind(tmp_path):
    with pytest.raises(UserError, match="nothing"), claimed(tmp_path / "a" / "b", "training"):
        raise UserError("nothing")
    assert list(tmp_path.iterdir()) == []


def test_the_second_attack_of_a_name_is_refused(tmp_path):
    fit(tmp_path / "run", epochs=2)
    run, linear = runs.Run.open(tmp_path / "run"), Spec.model_validate("linear")
    with claimed(tmp_path / "run" / "attacks" / "linear@train_time", "attack"):
        with pytest.raises(UserError, match="in use by another attack"):
            attack_run(run, linear, IMAGES, protocol_name="train_time")
        attack_run(run, linear, IMAGES, protocol_name="train_time", label="other")
    attack_run(run, linear, IMAGES, protocol_name="train_time")


@pytest.mark.parametrize("variables", SLURM.values(), ids=SLURM)
def test_variables_of_a_scheduler_do_not_start_the_training_otherwise(tmp_path, small, monkeypatch, variables):
    fit(tmp_path / "out", epochs=2)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    fit(tmp_path / "in", epochs=2)
    weights = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("in", "out")]
    assert weights[0] == weights[1]
