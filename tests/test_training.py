"""The training loop: what it leaves, how it goes on after a kill, what it chooses on, and what it refuses."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from splitveil import config, features, runs, training
from splitveil.data import load, protocol
from splitveil.defenses.base import Defense, Stack
from splitveil.errors import UserError
from splitveil.runs import Run
from splitveil.zoo import Parts

SIZES: dict[str, Any] = {"train_size": 60, "test_size": 20}
IMAGES = load("digits", **SIZES)


def tiny(*_: Any, classes: int, **__: Any) -> Parts:
    """Batch norm and dropout, the two layers with a state and a randomness of their own."""
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.BatchNorm2d(4), nn.Sigmoid())
    tail = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(256, classes))
    return Parts(encoder, tail)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(runs.zoo, "build", tiny)


def settings(**values: Any) -> config.TrainConfig:
    base = {
        "data": "digits",
        "arch": "resnet20_sgm",
        "cut": 2,
        "bottleneck": 4,
        "precision": "32-true",
        **SIZES,
    }
    return config.parse(
        {**base, "epochs": 3, "batch_size": 16, "defense": ("gaussian:0.1", "cem:16"), **values}
    )


def fit(out: Path, progress: training.Progress | None = None, resume: bool = False, **values: Any):
    return training.fit(settings(**values), IMAGES, out, progress=progress, resume=resume)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("seconds", "images_per_second")}


class Killed(Exception):
    pass


def killer(epoch: int, step: int):
    def progress(now: int, done: int, _: dict[str, Any]) -> None:
        if now == epoch and done >= step:
            raise Killed

    return progress


# The run folder


def test_the_run_folder_holds_what_the_design_says(tmp_path, small):
    out, calls = tmp_path / "run", []
    summary = fit(out, progress=lambda *call: calls.append(call))
    assert sorted(p.name for p in out.iterdir()) == [
        "checkpoint", "config.yaml", "metrics.jsonl", "model.safetensors", "summary.json",
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
    fit(tmp_path / "a", epochs=1)
    fit(tmp_path / "b", epochs=1, seed=1)
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
    rng = training.generator(torch.device("cpu"), 0, training.TEST, 0, 0)
    assert training.correct(model, test, rng).float().mean() == pytest.approx(summary["accuracy"]["mean"])


def test_training_leaves_the_callers_randomness_alone(tmp_path, small):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(tmp_path / "run", epochs=1)
    assert torch.equal(torch.rand(3), expected)


# Resuming


@pytest.mark.parametrize(
    "defense", [("gaussian:0.1", "cem:16"), ("gaussian:0.1", "cem:weight=16,refit=pass"), ()]
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
    assert got["epoch"] == expected["epoch"]


SCRIPT = """
import sys
from splitveil import config, training
from splitveil.data import load
values = config.load(sys.argv[1])
images = load("digits", train_size=60, test_size=20)
training.fit(config.parse(values), images, sys.argv[2], progress=lambda *call: print(call[1], flush=True))
"""


def test_resume_after_sigkill(tmp_path):
    (tmp_path / "run.yaml").write_text(config.dump(settings()))
    out = tmp_path / "killed"
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "run.yaml"), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if int(line) == 6:  # the middle of the second epoch
            child.send_signal(signal.SIGKILL)
            break
    assert child.wait() == -signal.SIGKILL
    assert [r["epoch"] for r in records(out)] == [0]
    with pytest.raises(UserError, match=r"not finished.*--resume"):
        Run.open(out)
    fit(out, resume=True)
    fit(tmp_path / "whole")
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_resuming_a_finished_run_only_returns_its_summary(tmp_path, small):
    summary = fit(tmp_path, epochs=1)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    assert fit(tmp_path, resume=True, epochs=1) == summary
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lr": 0.01}, "lr was 0.05, now 0.01"),
        ({"epochs": 9}, "epochs was 1, now 9"),
        ({"defense": ()}, "defense was"),
    ],
)
def test_resume_with_other_settings_is_refused_by_name(tmp_path, small, changed, named):
    fit(tmp_path, epochs=1)
    with pytest.raises(UserError, match=named) as error:
        fit(tmp_path, resume=True, **{"epochs": 1, **changed})
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
    assert list((tmp_path / "checkpoint").iterdir()) == []
    assert (tmp_path / "model.safetensors").exists()


def test_an_existing_run_is_not_overwritten(tmp_path, small):
    fit(tmp_path, epochs=1)
    weights = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match="holds a run already; add --resume"):
        fit(tmp_path, epochs=1)
    assert (tmp_path / "model.safetensors").read_bytes() == weights


def test_a_folder_with_other_things_is_not_used(tmp_path, small):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="exists and is no run"):
        fit(tmp_path)
    with pytest.raises(UserError, match="exists and is no run"):
        fit(tmp_path / "thesis.tex")


def test_bad_settings_write_nothing(tmp_path):
    for values in ({"defense": ("cem:16",)}, {"arch": "vgg12"}, {"cut": 99}, {"protocol": "train"}):
        with pytest.raises(UserError):
            fit(tmp_path / "run", **values)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("defense", [(), ("gaussian:0.1", "cem:16")])
def test_a_diverging_loss_is_said_in_one_line(tmp_path, small, defense):
    with pytest.raises(UserError, match=r"the loss is (nan|inf) in epoch 0; lower --lr") as error:
        fit(tmp_path, lr=1e30, warmup_epochs=0, defense=defense)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "summary.json").exists()


# Which epoch


def scripted(monkeypatch, accuracies: list[float]) -> None:
    """Validation answers with these accuracies, epoch by epoch; the test images are scored as they are."""
    answers, real = iter(accuracies), training.correct

    def correct(model, split, rng):
        if len(split) == len(IMAGES.test):
            return real(model, split, rng)
        hits = torch.zeros(100, dtype=torch.bool)
        hits[: round(100 * next(answers))] = True
        return hits

    monkeypatch.setattr(training, "correct", correct)


@pytest.mark.parametrize(
    ("accuracies", "best"), [([0.1, 0.9, 0.3], 1), ([0.5, 0.5, 0.2], 1), ([0.7, 0.6, 0.5], 0)]
)
def test_validation_chooses_the_epoch(tmp_path, small, monkeypatch, accuracies, best):
    seen = {}
    real = training.Trainer._checkpoint

    def spy(trainer):
        seen[trainer.state.epoch - 1] = {k: v.clone() for k, v in trainer.model.state_dict().items()}
        real(trainer)

    monkeypatch.setattr(training.Trainer, "_checkpoint", spy)
    scripted(monkeypatch, accuracies)
    summary = fit(tmp_path)
    assert summary["epoch"] == best
    assert summary["accuracy_val"] == pytest.approx(accuracies[best])
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == seen[best].keys()
    assert all(torch.equal(value, seen[best][name]) for name, value in saved.items())
    assert not torch.equal(
        saved["encoder.0.weight"], seen[2]["encoder.0.weight"]
    )  # the last is never the best here


def test_the_test_images_choose_nothing(tmp_path, small):
    fit(tmp_path / "a")
    swapped = replace(IMAGES, test=IMAGES.test.subset(torch.arange(len(IMAGES.test)).flip(0)[:12]))
    training.fit(settings(), swapped, tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert records(tmp_path / "a")[-1]["accuracy_val"] == records(tmp_path / "b")[-1]["accuracy_val"]


class Halving(Defense):
    """Replaces a layer after the first epoch."""

    def restructure(self, epoch: int, model: Any) -> bool:
        if epoch != 0:
            return False
        model.tail[-1] = nn.Linear(256, 10)
        nn.init.constant_(model.tail[-1].bias, 7.0)
        return True


def test_a_restructured_network_is_validated_and_trained_as_it_then_is(tmp_path, small, monkeypatch):
    monkeypatch.setattr(runs, "Stack", lambda *_: Stack(Halving()))
    validated, real = [], training.correct

    def spy(model, split, rng):
        validated.append(model.tail[-1].bias.detach().clone())
        return real(model, split, rng)

    monkeypatch.setattr(training, "correct", spy)
    fit(tmp_path, defense=())
    assert torch.equal(validated[0], torch.full((10,), 7.0))  # not the network of before
    assert not torch.equal(validated[1], validated[0])  # the new layer is in the optimiser


def test_no_epoch_before_a_restructuring_is_chosen(tmp_path, small, monkeypatch):
    class Late(Halving):
        def restructure(self, epoch: int, model: Any) -> bool:
            return super().restructure(epoch - 1, model)

    monkeypatch.setattr(runs, "Stack", lambda *_: Stack(Late()))
    scripted(monkeypatch, [0.9, 0.2, 0.1])  # the best accuracy is that of a network that is no more
    assert fit(tmp_path, defense=())["epoch"] == 1


# Learning rate and batches


def test_the_published_learning_rates():
    s = config.parse({"data": "digits"})
    rates = [training.learning_rate(s, (epoch + 0.5) / 240) for epoch in range(240)]
    assert rates[0] == pytest.approx(0.025)
    steps = [0.05] * 59 + [0.01] * 60 + [0.002] * 60 + [4e-4] * 30 + [8e-5] * 30
    assert rates[1:] == pytest.approx(steps)


@given(st.integers(1, 30), st.floats(0, 5), st.floats(0, 0.999))
def test_learning_rate_stays_below_its_peak_and_warms_up_linearly(epochs, warmup, progress):
    s = config.parse({"data": "digits", "epochs": epochs, "warmup_epochs": warmup, "milestones": ()})
    rate = training.learning_rate(s, progress)
    assert 0 <= rate <= s.lr
    expected = s.lr if progress * epochs >= warmup else s.lr * progress * epochs / warmup
    assert rate == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(st.integers(2, 300), st.integers(2, 40), st.integers(1, 4), st.integers(0, 9))
@hypothesis_settings(deadline=None)
def test_batches_are_a_permutation_without_tiny_ones(count, size, ranks, seed):
    plan = training.batches(count, size, torch.Generator().manual_seed(seed), smallest=2 * ranks)
    assert torch.equal(torch.cat(plan).sort().values, torch.arange(count))
    assert all(len(part) >= min(2 * ranks, size, count) for part in plan)
    assert all(len(part) == size for part in plan[:-1])
    assert len(plan[-1]) < size + 2 * ranks
    again = training.batches(count, size, torch.Generator().manual_seed(seed), smallest=2 * ranks)
    assert all(torch.equal(a, b) for a, b in zip(plan, again, strict=True))


def test_generators_of_different_purposes_differ():
    parts = [(0, 1, 0, 0), (0, 2, 0, 0), (0, 1, 1, 0), (0, 1, 0, 1), (1, 1, 0, 0)]
    draws = {
        tuple(torch.rand(4, generator=training.generator(torch.device("cpu"), *p)).tolist()) for p in parts
    }
    assert len(draws) == len(parts)


# Several processes


def test_two_processes_share_the_data_and_its_statistics(tmp_path):
    # 51 images in batches of 16: the last three are too few for two processes and join the batch before.
    images = load("digits", train_size=57, test_size=20)
    summary = training.fit(settings(epochs=2, devices=2, train_size=57), images, tmp_path / "run")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    counts = weights["defense.parts.1.counts"]
    expected = torch.bincount(protocol("inference_time", images, seed=0).defender_train.labels, minlength=10)
    assert torch.equal(counts.sum(1).long(), expected)
    assert int(counts.sum()) == 51
    assert [r["epoch"] for r in records(tmp_path / "run")] == [0, 1]
    assert Run.open(tmp_path / "run").summary == summary


def test_what_a_process_refuses_is_one_line_too(tmp_path, monkeypatch):
    text = "\n\n-- Process 1 terminated with the following error:\nTraceback (most recent call last):\n  File ...\n"

    def launch(last_line):
        def fail(*_):
            raise torch.multiprocessing.ProcessRaisedException(text + last_line, 1, 4711)

        monkeypatch.setattr(training.Fabric, "launch", fail)

    launch("splitveil.errors.UserError: the loss is nan in epoch 0; lower --lr\n")
    with pytest.raises(UserError, match="^the loss is nan in epoch 0; lower --lr$"):
        fit(tmp_path / "run", devices=2)
    launch("ValueError: a bug\n")
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="a bug"):
        fit(tmp_path / "run", devices=2)


def test_a_batch_without_two_images_for_each_process_is_refused(tmp_path, small):
    with pytest.raises(UserError, match=r"batch size 16 is too small for --devices 9; expected at least 18"):
        fit(tmp_path / "run", devices=9)


# Memory


@pytest.mark.parametrize("refit", ["epoch", "pass"])
def test_a_wire_too_wide_for_the_memory_keeps_all_classes(tmp_path, small, monkeypatch, refit):
    monkeypatch.setattr(features, "FEATURE_BYTES", 4 * 256 * 40)  # room for 40 of 54 images
    by_class = replace(IMAGES, train=IMAGES.train.subset(IMAGES.train.labels.argsort(stable=True)))
    training.fit(
        settings(epochs=1, defense=("gaussian:0.1", f"cem:refit={refit}")), by_class, tmp_path / refit
    )
    counts = load_file(tmp_path / refit / "model.safetensors")["defense.parts.1.counts"].sum(1)
    assert int(counts.sum()) == 40
    assert (counts > 0).all()
