"""A trained model is hardened: what it costs, what stays, and how a stopped one goes on."""

from __future__ import annotations

import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import splitveil as sv
import toy
from splitveil import config, runs
from splitveil.cli import main
from splitveil.data import load
from splitveil.defenses.base import Stack
from splitveil.defenses.cloak import Cloak
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.local_dp import LocalDP
from splitveil.defenses.pca import PCA
from splitveil.defenses.waterfill import Waterfill
from splitveil.errors import DivergedError, UserError
from splitveil.hardening import run as hardening
from splitveil.hardening import search as searching
from splitveil.hardening.run import save_tail
from splitveil.hardening.search import Step, bracket, staying
from splitveil.model import SplitModel
from splitveil.training import trainer
from splitveil.zoo import Parts

SIZES: dict[str, Any] = {"train_size": 600, "test_size": 200}
IMAGES = load("digits", **SIZES)


def narrow(*_, classes: int, **__) -> Parts:
    """Images 32×32 to a wire of 32 values."""
    encoder = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 2, 2, 2), nn.Sigmoid())
    return Parts(encoder, nn.Sequential(nn.Flatten(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, classes)))


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs.zoo, "build", narrow)
    monkeypatch.setitem(searching.SHORT, "epochs", 2)
    monkeypatch.setattr(searching, "STEPS", 4)


@pytest.fixture
def quick(monkeypatch):
    hurry(monkeypatch)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    values = {"data": "digits", **SIZES, "arch": "resnet20_sgm", "cut": 2, "precision": "32-true", "recipe": "fast"}
    values |= {"batch_size": 32, "epochs": 20, "defense": ["gaussian:0.05", "cem:4"]}
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        hurry(monkeypatch)
        trainer.fit(config.parse(values), IMAGES, folder)
    return folder


@pytest.fixture
def run(trained, tmp_path, quick) -> runs.Run:
    shutil.copytree(trained, tmp_path / "run")
    return runs.Run.open(tmp_path / "run")


def harden(run: runs.Run, out: Path, **more):
    return hardening.harden(run, IMAGES, out, **{"max_drop": 5.0, **more})


def linear_error(model: SplitModel) -> float:
    half = IMAGES.train.subset(torch.arange(0, 600, 2))
    other = IMAGES.test
    scaled = [(part.images.float() / 255, part.labels) for part in (half, other)]
    return sv.attack(model, "linear", learn_from=scaled[0], invert=scaled[1], progress=False).mse


def test_a_run_is_hardened_into_a_run_like_any_other(run, tmp_path):
    summary = harden(run, tmp_path / "hard")
    hard = runs.Run.open(tmp_path / "hard")
    before, after = run.model(IMAGES), hard.model(IMAGES)
    assert all(
        torch.equal(value, after.encoder.state_dict()[name]) for name, value in before.encoder.state_dict().items()
    )
    assert [spec.name for spec in hard.settings.defense] == ["waterfill"]
    assert isinstance(next(iter(after.defense)), Waterfill)  # type: ignore[arg-type, call-overload]
    found = summary["hardening"]
    chosen = found["steps"][found["chosen"]]
    assert chosen["accepted"]
    assert chosen["accuracy"] >= found["before"] - 0.05
    assert summary["wire"] == {"shape": [2, 4, 4], "bytes": 4 * chosen["sent"]}
    assert summary["accuracy"]["mean"] > 0.5
    assert 0 < chosen["linear_error"] < found["mean_image"]
    assert linear_error(after) > 1.15 * linear_error(before)
    assert (tmp_path / "hard" / "hardening.png").stat().st_size > 1000
    assert not list((tmp_path / "hard").glob("tail-*"))
    rows = (tmp_path / "hard" / "test.csv").read_text().splitlines()[1:]
    hits = sum(row.split(",")[1] == row.split(",")[2] for row in rows)
    assert hits / 200 == pytest.approx(summary["accuracy"]["mean"])


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 3, 4])
def test_a_stopped_hardening_goes_on_to_the_same_weights(run, tmp_path, monkeypatch, at):
    whole = harden(run, tmp_path / "whole")

    def stop(done: int, _: int) -> None:
        if done == at:
            raise Killed

    with pytest.raises(Killed):
        harden(run, tmp_path / "stopped", show=stop)
    with pytest.raises(UserError, match="holds a hardening already; add --resume"):
        harden(run, tmp_path / "stopped")
    with pytest.raises(UserError, match=r"begun with --max-drop 5; repeat it, or"):
        harden(run, tmp_path / "stopped", max_drop=3.0, resume=True)
    monkeypatch.setattr(runs.Run, "digest", lambda _: "another")
    with pytest.raises(UserError, match="was begun with another run, or with other weights of this one; give those"):
        harden(run, tmp_path / "stopped", resume=True)
    monkeypatch.undo()
    hurry(monkeypatch)
    again = harden(run, tmp_path / "stopped", resume=True)
    models = [runs.Run.open(tmp_path / name).model(IMAGES).state_dict() for name in ("whole", "stopped")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    for summary in (whole, again):
        summary["seconds"] = 0
        for step in summary["hardening"]["steps"]:
            step["seconds"] = 0
    assert whole == again
    assert harden(run, tmp_path / "stopped", resume=True)["accuracy"] == again["accuracy"]


def test_a_finished_hardening_that_has_lost_a_file_is_not_taken_for_done(run, tmp_path):
    out = tmp_path / "hard"
    summary = harden(run, out)
    picture = (out / "hardening.png").read_bytes()
    (out / "hardening.png").unlink()
    assert harden(run, out, resume=True) == summary
    assert (out / "hardening.png").read_bytes() == picture
    for name in ("model.safetensors", "config.yaml", "test.csv"):
        there = (out / name).read_bytes()
        for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
            damage(out / name)
            with pytest.raises(UserError, match=f"has lost {name}; put back what was lost, or harden the run") as why:
                harden(run, out, resume=True)
            assert "\n" not in str(why.value)
        (out / name).write_bytes(there)
    assert harden(run, out, resume=True) == summary


@pytest.mark.parametrize("name", ["summary.json", "hardening.json"])
def test_killed_at_the_end_it_makes_the_last_step_again(run, tmp_path, monkeypatch, name):
    whole, write, left = harden(run, tmp_path / "whole"), hardening.write_json, []

    def killed(path: Path, value: dict) -> None:
        if path.name == name and (name == "summary.json" or value["steps"][-1]["whole"]):
            raise Killed
        write(path, value)
        left.append(path)

    for module in (hardening, runs):
        monkeypatch.setattr(module, "write_json", killed)
    with pytest.raises(Killed):
        harden(run, tmp_path / "stopped")
    for module in (hardening, runs):
        monkeypatch.setattr(module, "write_json", write)
    again = harden(run, tmp_path / "stopped", resume=True)
    assert again["accuracy"] == whole["accuracy"]
    assert len(again["hardening"]["steps"]) == len(whole["hardening"]["steps"])


def test_its_time_counts_what_came_before_a_stop(run, tmp_path):
    def stop(*_) -> None:
        raise Killed

    with pytest.raises(Killed):
        harden(run, tmp_path / "stopped", show=stop)
    file = tmp_path / "stopped" / hardening.FILE
    kept = json.loads(file.read_text())
    assert kept["seconds"] > 0
    file.write_text(json.dumps(kept | {"seconds": 1000.0}))
    assert harden(run, tmp_path / "stopped", resume=True)["seconds"] > 1000


def test_a_folder_with_other_things_is_left_alone(run, tmp_path):
    (tmp_path / "other" / "attacks").mkdir(parents=True)
    with pytest.raises(UserError, match="exists and holds no hardening"):
        harden(run, tmp_path / "other")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "tail-1.safetensors").touch()  # killed before the step was noted
    assert harden(run, tmp_path / "begun")["accuracy"]


def test_a_full_disk_is_one_line(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot write .*tail-1\.safetensors: .*free some space"):
            hardening.save_tail(nn.Linear(100, 100), tmp_path / "tail-1.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["{", '{"of": 3}', '{"steps": []}'])
def test_a_damaged_state_is_one_line(run, tmp_path, damage):
    out = tmp_path / "stopped"

    def stop(*_) -> None:
        raise Killed

    with pytest.raises(Killed):
        harden(run, out, show=stop)
    (out / "hardening.json").write_text(damage)
    with pytest.raises(UserError, match=r"hardening\.json") as error:
        harden(run, out, resume=True)
    assert "\n" not in str(error.value)


def test_a_missing_tail_is_one_line(run, tmp_path):
    out = tmp_path / "stopped"

    def stop(*_) -> None:
        raise Killed

    with pytest.raises(Killed):
        harden(run, out, show=stop)
    for tail in out.glob("tail-*"):
        tail.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"cannot go on: .*harden the run again") as error:
        harden(run, out, resume=True)
    assert "\n" not in str(error.value)


def test_the_command_prints_what_was_tried_and_refuses_in_one_line(run, tmp_path, capsys):
    summary = json.loads((run.path / "summary.json").read_text())
    summary["accuracy"] = {"mean": 0.1, "ci95": [0.06, 0.15]}
    (run.path / "summary.json").write_text(json.dumps(summary))
    main(["harden", str(run.path), "--out", str(tmp_path / "hard"), "--max-drop", "5"])
    printed, said = capsys.readouterr()
    assert "the network is not shown to be better than chance on its 200 test images" in printed + said
    assert printed.count("chosen") == 1
    assert "hardening.png" in printed
    for arguments, expected in (
        ([str(run.path), "--out", str(tmp_path / "no"), "--max-drop", "0"], "max drop is 0"),
        ([str(run.path), "--out", str(run.path)], "exists and holds no hardening"),
        ([str(tmp_path / "hard"), "--out", str(tmp_path / "twice")], "hardened already"),
    ):
        with pytest.raises(SystemExit):
            main(["harden", *arguments])
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
    assert not (tmp_path / "no").exists()
    assert not (tmp_path / "twice").exists()


def test_a_hardened_run_is_attacked_and_compared(run, tmp_path, capsys):
    harden(run, tmp_path / "hard")
    for folder in (run.path, tmp_path / "hard"):
        main(["attack", str(folder), "--attack", "linear"])
    main(["compare", str(run.path), str(tmp_path / "hard")])
    assert "linear" in capsys.readouterr().out
    summaries = [json.loads((f / "attacks/linear/summary.json").read_text()) for f in (run.path, tmp_path / "hard")]
    assert summaries[0]["mse"]["mean"] < summaries[1]["mse"]["mean"]


def test_a_model_of_ones_own_is_hardened_from_python(quick):
    torch.manual_seed(0)
    parts = narrow(classes=10)
    x, y = IMAGES.train.images.float() / 255, IMAGES.train.labels
    model = SplitModel(parts.encoder, parts.tail, defense=[Gaussian(0.05)], example=x[:1])
    sv.fit(model, (x, y), epochs=15, batch_size=32, unit_variance=True, progress=False)
    found = sv.harden(model, (x, y), max_drop=5)
    assert "accuracy on the validation images" in str(found)
    assert isinstance(model.defense, Stack)
    assert [type(part) for part in model.defense] == [Gaussian]
    assert [type(part) for part in found.model.defense] == [Waterfill]  # type: ignore[union-attr]
    with pytest.raises(UserError, match="hardened already"):
        sv.harden(found.model, (x, y))
    with pytest.raises(UserError, match="max_drop is 0; expected points"):
        sv.harden(model, (x, y), max_drop=0)


@pytest.mark.parametrize("good", [True, False])
def test_the_tail_that_was_trained_on_all_images_is_taken_only_if_it_is_good_enough(run, tmp_path, monkeypatch, good):
    real = searching.Hardening.step

    def step(self, *given):
        tried, model = real(self, *given)
        return replace(tried, accepted=good if tried.whole else tried.accepted), model

    monkeypatch.setattr(searching.Hardening, "step", step)
    tails: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(
        hardening, "save_tail", lambda tail, path: (tails.append(tail.state_dict()), save_tail(tail, path))
    )
    found = harden(run, tmp_path / "hard")["hardening"]
    assert found["steps"][found["chosen"]]["whole"] is good
    assert found["steps"][-1]["loss"] == found["steps"][found["chosen"]]["loss"]
    tail = runs.Run.open(tmp_path / "hard").model(IMAGES).tail.state_dict()
    assert all(torch.equal(value, tails[-1][name]) for name, value in tail.items()) is not good


def test_noise_that_costs_too_much_at_its_least_is_refused(run, tmp_path, monkeypatch):
    """Nothing is left behind, so that a larger loss may be tried in the same folder."""
    for resume in (False, True):
        with monkeypatch.context() as patched:
            patched.setattr(searching, "bracket", lambda _: (20.0, 30.0))
            with pytest.raises(UserError, match=r"already the least noise costs more than 0\.01 points of accuracy"):
                harden(run, tmp_path / "hard", max_drop=0.01, resume=resume)
        assert not (tmp_path / "hard").exists()
    assert harden(run, tmp_path / "hard")["accuracy"]


def test_a_tail_that_diverges_stays_as_it_is(run, tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise DivergedError("the loss is not finite")

    monkeypatch.setattr(searching, "retrained", diverge)
    summary = harden(run, tmp_path / "hard", max_drop=100)
    before, after = (
        run.model(IMAGES).tail.state_dict(),
        runs.Run.open(tmp_path / "hard").model(IMAGES).tail.state_dict(),
    )
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(step["whole"] for step in summary["hardening"]["steps"])


def test_a_second_search_follows_where_the_first_one_refused_all():
    refused = [step(0.1 / n, False) for n in range(1, searching.STEPS + 1)]
    assert searching.planned(refused[:-1]) == searching.STEPS
    assert searching.planned(refused) == 2 * searching.STEPS == searching.planned([*refused, step(1e-4, True)])
    assert searching.planned([*refused[1:], step(0.1, True)]) == searching.STEPS
    assert bracket(refused) == (searching.FAINT_LOSS, refused[-1].loss)
    assert bracket([*refused, step(1e-4, True), step(1e-3, False)]) == (1e-4, 1e-3)


def step(loss: float, accepted: bool, whole: bool = False) -> Step:
    return Step(1.0, loss, 5, 0.9, 0.02, 1.0, accepted, whole)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([], (searching.LEAST_LOSS, searching.MOST_LOSS)),
        ([step(0.1, True)], (0.1, searching.MOST_LOSS)),
        ([step(0.1, False)], (searching.LEAST_LOSS, 0.1)),
        ([step(0.1, True), step(0.7, False), step(0.3, True), step(0.3, True, whole=True)], (0.3, 0.7)),
    ],
)
def test_the_next_step_lies_between_what_was_accepted_and_what_was_not(steps, expected):
    assert bracket(steps) == expected


@pytest.mark.parametrize("part", [Cloak(1.0), LocalDP(2.0, mechanism="gaussian"), LocalDP(2.0)])
def test_noise_that_promises_more_than_its_variance_stays(part):
    """Without its clipping and its noise a wire of local_dp has no epsilon any more."""
    assert staying(Stack(Gaussian(0.1), part)) == [part]
    assert staying(Stack(part)) == [part]


def test_the_least_noise_is_that_of_the_noise_that_is_replaced():
    model = toy.model(48, 0.1, (12, 2, 2))[0]
    model.defense = Stack(Gaussian(0.3), Cloak(1.0, low=0.2), Gaussian(0.4))
    split = toy.images(20, 1)
    known: Any = SimpleNamespace(deviation=3.0)
    assert searching.Hardening(model, split, split, 1.0)._sigma(known) == pytest.approx(0.5)
    model.defense = Stack(Cloak(1.0, low=0.2))
    assert searching.Hardening(model, split, split, 1.0)._sigma(known) == pytest.approx(0.03)


def test_certain_defenses_stay_before_the_noise_and_noise_and_losses_go():
    pca, dropout = PCA(4), Dropout(0.2)
    assert staying(Stack(pca, Gaussian(0.1), dropout)) == [pca, dropout]
    assert staying(None) == []
    with pytest.raises(UserError, match="cannot be hardened"):
        staying(nn.Identity())
