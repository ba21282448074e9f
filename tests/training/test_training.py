"""The training loop: what it leaves, how it goes on after a kill, what it chooses on, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric

from forked import FORK
from splitveil import config, recipe
from splitveil.data import protocol, to_float
from splitveil.errors import UserError
from splitveil.randomness import stream
from splitveil.runs import Run
from splitveil.training import trainer as training
from training_helpers import IMAGES, Killed, fit, killer, records, settings, without_times

# The run folder


def test_the_run_folder_holds_what_the_design_says(tmp_path, small):
    out, calls = tmp_path / "run", []
    summary = fit(out, progress=lambda *call: calls.append(call))
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint", "config.yaml", "metrics.jsonl", "model.safetensors", "summary.json", "test.csv",
    ]  # fmt: skip
    assert [p.name for p in (out / "checkpoint").iterdir()] == ["last.pt"]
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["wire"] == {"shape": [4, 8, 8], "bytes": 4 * 4 * 8 * 8}
    assert summary["parameters"] == {"encoder": 4 * 3 * 16 + 4 + 8, "tail": 2570, "defense": 0}
    assert summary["images"] == {"train": 54, "test": 20}
    accuracy = summary["accuracy"]
    assert accuracy["ci95"][0] <= accuracy["mean"] <= accuracy["ci95"][1]
    lines = records(out)
    assert [r["epoch"] for r in lines] == [0, 1, 2]
    assert {"loss", "losses", "accuracy_val", "seconds", "images_per_second"} <= set(lines[0])
    assert list(lines[0]["losses"]) == ["task"]  # no statistics before the first refit
    assert list(lines[1]["losses"]) == ["task", "cem"]
    assert lines[1]["loss"] == pytest.approx(sum(lines[1]["losses"].values()))
    assert summary["leakage_nats"] == lines[summary["epoch"]]["leakage_nats"] > 0
    assert summary["seconds"] == pytest.approx(sum(r["seconds"] for r in lines))
    assert [done for _, done, _ in calls] == list(range(1, 13))  # 54 images in batches of 16: four steps
    assert calls[0][2] == {}
    assert without_times(calls[-1][2]) == without_times(lines[1])


def test_the_config_repeats_the_run(tmp_path, small):
    fit(tmp_path / "a")
    again = config.parse(config.load(tmp_path / "a" / "config.yaml"))
    assert again.resolve() == settings().resolve() == again
    training.fit(again, IMAGES, tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_another_seed_is_another_run(tmp_path, small):
    fit(tmp_path / "a", epochs=2)
    fit(tmp_path / "b", epochs=2, seed=1)
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "b/model.safetensors").read_bytes()


def test_the_model_comes_back_from_the_folder(tmp_path, small):
    summary = fit(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    model = run.model(IMAGES)
    assert run.summary == summary
    assert not model.training
    stack: Any = model.defense
    assert int(stack.parts[1].counts.sum()) == 54
    test = protocol("inference_time", IMAGES, seed=0).utility_test
    rng = stream("cpu", 0, recipe.TEST, 0, 0)
    hits = training.correct(model, test, rng)
    assert hits.float().mean() == pytest.approx(summary["accuracy"]["mean"])
    rows = list(csv.DictReader((tmp_path / "run" / "test.csv").open()))
    assert [row["image"] for row in rows] == [str(i) for i in range(20)]
    assert [int(row["label"]) for row in rows] == IMAGES.test.labels.tolist()
    assert [row["label"] == row["predicted"] for row in rows] == hits.tolist()
    assert summary["test_digest"] == IMAGES.test.digest()


def test_training_leaves_the_callers_randomness_alone(tmp_path, small):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(tmp_path / "run", epochs=2)
    assert torch.equal(torch.rand(3), expected)


def test_the_extra_pass_sees_images_as_they_are_or_augmented(tmp_path, small):
    """With flips alone a feature is that of the image or of its mirror image: both occur, drawn anew each epoch."""
    values = settings(flip=True, rotate=0, crop_padding=0).resolve()
    trainer = training.Trainer(values, IMAGES, tmp_path, Fabric(accelerator="cpu", devices=1))
    model = trainer.model.eval()

    def seen(images):
        with torch.no_grad():
            return model.features(to_float(images)).flatten(1)

    plain, y = trainer._extract(1)
    first, again, other = (trainer._extract(epoch, augmented=True)[0] for epoch in (1, 1, 2))
    assert torch.equal(first, again)
    images = trainer.train.images
    straight, mirrored = seen(images), seen(images.flip(3))
    for row, label in zip(plain, y, strict=True):  # each an image of the training set, with its label
        close = (straight - row).abs().amax(1) < 1e-5
        assert label in trainer.train.labels[close]
    same = (first - plain).abs().amax(1) < 1e-5
    assert 0.2 < same.float().mean() < 0.8
    assert all(((mirrored - row).abs().amax(1) < 1e-5).any() for row in first[~same])
    assert not torch.equal(first, other)


# Resuming


@pytest.mark.parametrize(
    "defense",
    [
        ("gaussian:0.1", "cem:16"),
        ("gaussian:0.1", "cem:weight=16,refit=pass"),
        ("gaussian:0.1", "cem:weight=16,refit=augmented"),
        (),
    ],
)
@pytest.mark.parametrize("at", [(0, 2), (1, 6)])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, small, defense, at):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = fit(whole, defense=defense)
    with pytest.raises(Killed):
        fit(broken, progress=killer(*at), defense=defense)
    assert not (broken / "summary.json").exists()
    got = fit(broken, resume=True, defense=defense)
    assert (whole / "model.safetensors").read_bytes() == (broken / "model.safetensors").read_bytes()
    assert [without_times(r) for r in records(whole)] == [without_times(r) for r in records(broken)]
    assert got["accuracy"] == expected["accuracy"]
    assert (whole / "test.csv").read_text() == (broken / "test.csv").read_text()
    assert got["epoch"] == expected["epoch"]


def die(_: int, step: int, *__: object) -> None:
    """End the process in the middle of the second epoch, without a last word."""
    if step == 6:
        os.kill(os.getpid(), signal.SIGKILL)


def test_resume_after_sigkill(tmp_path, small):
    out = tmp_path / "killed"
    child = FORK.Process(target=fit, args=(out, die))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [r["epoch"] for r in records(out)] == [0]
    with pytest.raises(UserError, match=r"not finished.*--resume"):
        Run.open(out)
    fit(out, resume=True)
    fit(tmp_path / "whole")
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("file", ["last.pt", "metrics.jsonl"])
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_a_run_that_is_killed_between_two_files_is_resumed_to_the_same(tmp_path, small, monkeypatch, file, epoch):
    """The weights of a chosen epoch, the checkpoint that says so and the curve are three files."""
    fit(tmp_path / "whole")
    with monkeypatch.context() as patched:
        for name in ("save_tensors", "write_text"):
            patched.setattr(training, name, _killed_at(getattr(training, name), file, epoch))
        with pytest.raises(Killed):
            fit(tmp_path / "killed")
    fit(tmp_path / "killed", resume=True)
    for name in ("model.safetensors", "test.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert [without_times(r) for r in records(tmp_path / "killed")] == [
        without_times(r) for r in records(tmp_path / "whole")
    ]
    assert [path.name for path in (tmp_path / "killed" / "checkpoint").iterdir()] == ["last.pt"]


def _killed_at(write: Any, file: str, epoch: int) -> Any:
    """Return ``write``, which is killed before it writes ``file`` after the epoch."""
    count = iter(range(10))

    def written(path: Any, value: Any) -> None:
        if path.name == file and next(count) == epoch:
            raise Killed
        write(path, value)

    return written


def test_the_weights_are_those_of_the_epoch_that_the_summary_names(tmp_path, small, monkeypatch):
    """An epoch that is trained again after a kill, on other hardware, may not be the best one any more."""
    with monkeypatch.context() as patched:
        patched.setattr(training, "save_tensors", _killed_at(training.save_tensors, "last.pt", 2))
        patched.setattr(training.Trainer, "_chosen", lambda *_: True)
        with pytest.raises(Killed):
            fit(tmp_path)
    kept = (tmp_path / "checkpoint" / "chosen-1.safetensors").read_bytes()
    monkeypatch.setattr(training.Trainer, "_chosen", lambda *_: False)
    assert fit(tmp_path, resume=True)["epoch"] == 1
    assert (tmp_path / "model.safetensors").read_bytes() == kept


def test_a_run_that_an_earlier_version_began_keeps_its_chosen_weights(tmp_path, small, monkeypatch):
    with pytest.raises(Killed):
        fit(tmp_path, progress=killer(2, 10))
    (tmp_path / "checkpoint" / "chosen-1.safetensors").rename(tmp_path / "model.safetensors")
    kept = (tmp_path / "model.safetensors").read_bytes()
    monkeypatch.setattr(training.Trainer, "_chosen", lambda *_: False)
    assert fit(tmp_path, resume=True)["epoch"] == 1
    assert (tmp_path / "model.safetensors").read_bytes() == kept


def test_what_a_kill_left_half_written_is_removed(tmp_path, small):
    with pytest.raises(Killed):
        fit(tmp_path, progress=killer(1, 6))
    left = [tmp_path / ".config.yaml.x1.tmp", tmp_path / "checkpoint" / ".last.pt.x2.tmp.pt"]
    for path in left:
        path.touch()
    fit(tmp_path, resume=True)
    assert not any(path.exists() for path in left)


def test_a_kill_before_the_settings_are_written_leaves_a_folder_that_can_be_used(tmp_path, small):
    (tmp_path / ".config.yaml.x1.tmp").touch()
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "every.json").write_text('{"every": 2}')
    fit(tmp_path)
    assert (tmp_path / "snapshots" / "epoch-002.safetensors").is_file()


def test_resuming_a_finished_run_only_returns_its_summary(tmp_path, small):
    summary = fit(tmp_path, epochs=2)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert fit(tmp_path, resume=True, epochs=2) == summary
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 0.01}, "lr was 0.05, now 0.01"),
        ({"epochs": 9}, "epochs was 2, now 9"),
        ({"defense": ()}, "defense was"),
    ],
)
def test_resume_with_other_settings_is_refused_by_name(tmp_path, small, changed, named):
    fit(tmp_path, epochs=2)
    with pytest.raises(UserError, match=named) as error:
        training.fit(settings(**{"epochs": 1, **changed}), IMAGES, tmp_path, resume=True)
    assert "\n" not in str(error.value)


def test_a_damaged_checkpoint_is_named(tmp_path, small):
    with pytest.raises(Killed):
        fit(tmp_path, progress=killer(1, 6))
    (tmp_path / "checkpoint" / "last.pt").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"last\.pt is damaged"):
        fit(tmp_path, resume=True)


# Refusals


def test_a_checkpoint_beyond_the_room_is_one_line(tmp_path, small):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, hard))  # room for the weights, not for the checkpoint
    try:
        with pytest.raises(UserError, match=r"cannot write .*last\.pt: .*free some space") as error:
            fit(tmp_path, defense=())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value)
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["chosen-0.safetensors"]


def test_an_existing_run_is_not_overwritten(tmp_path, small):
    fit(tmp_path, epochs=2)
    weights = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds a run already; add --resume"):
        fit(tmp_path, epochs=2)
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_a_folder_with_other_things_is_not_used(tmp_path, small):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="exists and is no run"):
        fit(tmp_path)
    with pytest.raises(UserError, match="exists and is no run"):
        fit(tmp_path / "thesis.tex")


def test_bad_settings_write_nothing(tmp_path):
    cases: list[dict[str, Any]] = [{"defense": ("cem:16",)}, {"arch": "vgg12"}, {"cut": 99}, {"protocol": "train"}]
    for values in cases:
        with pytest.raises(UserError):
            fit(tmp_path / "run", **values)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("defense", [(), ("gaussian:0.1", "cem:16")])
def test_a_diverging_loss_is_said_in_one_line(tmp_path, small, defense):
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch \d; lower lr") as error:
        fit(tmp_path, lr=1000, weight_decay=1e6, warmup_epochs=0, defense=defense)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "summary.json").exists()


def test_tensorboard_gets_the_curves_when_asked(tmp_path, small):
    fit(tmp_path / "plain")
    assert not (tmp_path / "plain" / "tensorboard").exists()
    training.fit(settings(), IMAGES, tmp_path / "run", tensorboard=True)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    shown = [event.value for event in events.Scalars("accuracy_val")]
    assert shown == pytest.approx([record["accuracy_val"] for record in records(tmp_path / "run")])
