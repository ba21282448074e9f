"""Files that a finished training has lost: made again to the same, or one line says what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from splitveil.errors import UserError
from splitveil.training import lost, trainer
from training_helpers import Killed, fit, killer, records, without_times

FILES = ("model.safetensors", "metrics.jsonl", "test.csv")
KEPT = ("model.safetensors", "test.csv", "summary.json")


@pytest.fixture
def out(tmp_path, small) -> Path:
    fit(tmp_path / "run")
    return tmp_path / "run"


def left(out: Path) -> tuple[Any, ...]:
    return *((out / name).read_bytes() for name in KEPT), [without_times(row) for row in records(out)]


@contextmanager
def no_training() -> Iterator[None]:
    """Fail where an epoch is trained."""

    def refused(*_: Any) -> None:
        raise AssertionError("an epoch was trained")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer.Trainer, "_whole_epoch", refused)
        yield


@pytest.mark.parametrize("gone", [*((name,) for name in FILES), FILES])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_what_a_finished_training_has_lost_is_made_again_to_the_same(out, gone, checkpoint):
    before, summary = left(out), json.loads((out / "summary.json").read_text())
    for name in (*gone, *(() if checkpoint else ("checkpoint/last.pt",))):
        (out / name).unlink()
    assert fit(out, resume=True) == summary
    assert left(out) == before
    assert not (out / "again").exists()


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_a_failing_machine_has_left_empty_is_lost(out, name):
    before = left(out)
    (out / name).write_bytes(b"")
    fit(out, resume=True)
    assert left(out) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "test.csv"])
def test_curve_and_answers_are_made_again_without_training(out, name):
    (out / name).unlink()
    with no_training():
        fit(out, resume=True)
    assert (out / name).is_file()


def test_a_curve_is_made_again_where_the_checkpoint_is_damaged(out):
    before = left(out)
    (out / "metrics.jsonl").unlink()
    (out / "checkpoint" / "last.pt").write_bytes(b"half a file")
    fit(out, resume=True)
    assert left(out) == before


def test_a_repeated_training_that_is_killed_goes_on(out):
    before = left(out)
    (out / "model.safetensors").unlink()
    with pytest.raises(Killed):
        fit(out, progress=killer(2, 10), resume=True)
    assert len(records(out / "again")) == 2
    assert not (out / "model.safetensors").exists()
    fit(out, resume=True)
    assert left(out) == before


@pytest.mark.parametrize("moment", range(1, 4))
def test_killed_while_files_are_put_back_it_goes_on(out, monkeypatch, moment):
    before, replace, count = left(out), os.replace, 0
    for name in FILES:
        (out / name).unlink()
    (out / "checkpoint" / "last.pt").unlink()

    def killed(source: Any, target: Any) -> None:
        nonlocal count
        count += Path(source).parent.name == lost.AGAIN and Path(source).name in FILES
        if count == moment:
            raise Killed
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            fit(out, resume=True)
    fit(out, resume=True)
    assert left(out) == before


def test_weights_that_are_made_again_are_no_younger_than_the_attacks_on_them(out):
    attack = out / "attacks" / "linear" / "summary.json"
    attack.parent.mkdir(parents=True)
    attack.write_text("{}")
    (out / "summary.json").touch()  # as after its tail was trained anew
    (out / "model.safetensors").unlink()
    fit(out, resume=True)
    assert (out / "model.safetensors").stat().st_mtime_ns <= attack.stat().st_mtime_ns


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.jsonl"])
@pytest.mark.parametrize("told", [{"weights": "0" * 64}, {"weights": None, "epoch": 0}])
def test_a_training_that_comes_to_other_weights_is_one_line(out, name, told):
    summary = json.loads((out / "summary.json").read_text()) | told
    summary = {key: value for key, value in summary.items() if value is not None}
    (out / "summary.json").write_text(json.dumps(summary))
    (out / name).unlink()
    (out / "checkpoint" / "last.pt").unlink()
    there = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    for _ in range(2):
        with pytest.raises(UserError, match=f"has lost {name}, and its training gives other weights here") as error:
            fit(out, resume=True)
        assert "\n" not in str(error.value)
        assert str(error.value).endswith("put back what was lost, or delete the folder and train it again")
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == there


def test_weights_that_answer_otherwise_are_one_line(out):
    summary = json.loads((out / "summary.json").read_text())
    (out / "summary.json").write_text(json.dumps(summary | {"accuracy": {"mean": 0.123, "ci95": [0, 1]}}))
    (out / "test.csv").unlink()
    with pytest.raises(UserError, match=r"has lost test.csv, and its weights answer .* not 12.30 % as in") as error:
        fit(out, resume=True)
    assert "\n" not in str(error.value)
    assert not (out / "test.csv").exists()


@pytest.mark.parametrize("about", [{"epoch": None}, {"hardening": {}}, {"coding": {}}])
def test_nothing_is_missed_in_what_no_training_has_left(out, about):
    summary = json.loads((out / "summary.json").read_text()) | about
    assert lost.lost(out / "none", summary) == []


def test_a_training_from_before_answers_were_kept_lacks_none(out):
    summary = json.loads((out / "summary.json").read_text())
    del summary["test_digest"]
    assert lost.lost(out / "none", summary) == ["model.safetensors", "metrics.jsonl"]
