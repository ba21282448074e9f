"""A diagnosis: its rows are those of the single commands, it goes on where it was stopped, and what it refuses."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import splitveil as sv
from commands import answer
from splitveil import config, runs
from splitveil.audit import diagnosis
from splitveil.cli import main
from splitveil.data import load, to_float
from splitveil.errors import UserError
from splitveil.evaluation.evaluate import attack_run
from splitveil.evaluation.stage import ThreatModel
from splitveil.statistics.intervals import Interval
from splitveil.statistics.rank_correlation import rank_correlation
from splitveil.training import snapshots, trainer
from splitveil.zoo import Parts

SIZES: dict[str, Any] = {"train_size": 60, "test_size": 120}
IMAGES = load("digits", **SIZES)
LINEAR = config.Spec.model_validate("linear:looks=1")


def plain(*_: Any, classes: int, **__: Any) -> Parts:
    """Images 32×32 to a wire of 32 values."""
    encoder = nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), nn.Sigmoid())
    return Parts(encoder, nn.Sequential(nn.Flatten(), nn.Linear(32, classes)))


def train(folder: Path, every: int | None = 1, **values: Any) -> Path:
    base = {"data": "digits", **SIZES, "epochs": 4, "batch_size": 32, "precision": "32-true", "choose": "last"}
    settings = config.parse({**base, "defense": ["gaussian:0.1", "cem:0"], **values})
    trainer.fit(settings, IMAGES, folder, snapshot_every=every)
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.zoo, "build", plain)
        yield train(tmp_path_factory.mktemp("diagnosed") / "run")


def diagnose(folder: Path, out: Path, spec: config.Spec = LINEAR, **more: Any) -> dict[str, Any]:
    return diagnosis.diagnose(runs.Run.open(folder), IMAGES, out, spec, ThreatModel(), **more)


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    return diagnose(trained, out), out


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """A picture takes a second: only that of ``whole``, which is made before this, is drawn."""
    monkeypatch.setattr(diagnosis, "draw", lambda *_: None)


def test_its_rows_are_what_the_single_commands_say(trained, whole, tmp_path):
    record, out = whole
    assert json.loads((out / diagnosis.FILE).read_text()) == record
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    rows = record["epochs"]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["leakage_nats"] for row in rows] == [line["leakage_nats"] for line in lines]
    assert len({row["mse"]["mean"] for row in rows}) == 4
    copy = Path(shutil.copytree(trained, tmp_path / "copy"))
    for row in (rows[1], rows[3]):  # weights of an epoch in the place of those that are served
        shutil.copy(snapshots.place(copy, row["epoch"]), copy / "model.safetensors")
        runs.write_summary(copy, runs.Run.open(copy).summary)
        run = runs.Run.open(copy)
        summary = attack_run(run, LINEAR, IMAGES, label=f"linear-{row['epoch']}")
        # As for the bound: on some processors the last bits follow from the layout of memory, which differs.
        assert row["mse"]["mean"] == pytest.approx(summary["mse"]["mean"], rel=1e-6)
        assert row["mse"]["ci95"] == pytest.approx(summary["mse"]["ci95"], rel=1e-6)
        assert record["baseline_mse"] == pytest.approx(summary["baseline_mse"])
        test = (to_float(IMAGES.test.images), IMAGES.test.labels)
        (bound,) = sv.bound(run.model(IMAGES), "mixture", test)
        assert bound.interval is not None
        assert row["bound"]["mean"] == pytest.approx(bound.value, rel=1e-5)
        assert row["bound"]["ci95"] == pytest.approx([bound.interval.lo, bound.interval.hi], rel=1e-5)
    errors = [row["mse"]["mean"] for row in rows]
    assert record["correlation"] == {
        "leakage_nats": rank_correlation([row["leakage_nats"] for row in rows], errors).as_dict(),
        "bound": rank_correlation([row["bound"]["mean"] for row in rows], errors).as_dict(),
    }
    assert (out / diagnosis.PICTURE).read_bytes().startswith(b"\x89PNG")


class Killed(Exception):
    pass


def test_a_stopped_one_attacks_only_what_is_left(trained, whole, tmp_path, monkeypatch):
    def stop(done: int, _: int) -> None:
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        diagnose(trained, tmp_path / "out", show=stop)
    attacked, row = [], diagnosis._row
    monkeypatch.setattr(diagnosis, "_row", lambda *given: attacked.append(given[2].name) or row(*given))
    record = diagnose(trained, tmp_path / "out")
    assert attacked == ["epoch-003.safetensors", "epoch-004.safetensors"]
    assert record == whole[0]
    path = tmp_path / "out" / diagnosis.FILE
    changed = json.loads(path.read_text())
    changed["epochs"][0]["weights"] = "of another training"
    path.write_text(json.dumps(changed))
    assert diagnose(trained, tmp_path / "out") == record
    assert attacked[2:] == ["epoch-001.safetensors"]


def test_a_wire_without_a_density_has_no_bound_and_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runs.zoo, "build", plain)
    folder = train(tmp_path / "run", defense=["gaussian:0.1", "dropout:0.2", "cem:0"])
    main(["diagnose", str(folder), "--attack", "linear:looks=1", "--out", str(tmp_path / "out")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "no held-out bound: the wire of" in printed
    record = json.loads((tmp_path / "out" / diagnosis.FILE).read_text())
    assert list(record["correlation"]) == ["leakage_nats"]
    assert not any("bound" in row for row in record["epochs"])


def test_the_command_prints_each_epoch_and_the_correlations(trained, whole, capsys):
    main(["diagnose", str(trained), "--attack", "linear:looks=1", "--out", str(whole[1])])
    printed = capsys.readouterr().out
    found = whole[0]["correlation"]["leakage_nats"]
    assert f"the estimate logged by the training: {found['mean']:.2f} [" in printed
    for row in whole[0]["epochs"]:
        assert f"{row['leakage_nats']:.1f}" in printed
        assert str(Interval.from_dict(row["mse"])) in printed


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"every": None}, "kept no weights of its epochs; train it again with `splitveil train --config"),
        ({"every": 3}, "weights of 2 epochs with a leakage; a rank correlation needs at least 4"),
        ({"defense": ["gaussian:0.1"]}, "--defense gaussian:sigma=0.1 --defense cem:0`"),
    ],
)
def test_a_run_that_cannot_be_diagnosed(tmp_path, monkeypatch, values, message):
    monkeypatch.setattr(runs.zoo, "build", plain)
    folder = train(tmp_path / "run", **values)
    code, error = answer("diagnose", folder, "--out", tmp_path / "out")
    assert (code, error.count("\n")) == (2, 1)
    assert message in error
    assert not (tmp_path / "out").exists()
    if "`" in error:  # the command that it advises makes what is needed
        main(shlex.split(error.split("`")[1])[1:])
        assert len(diagnose(Path(f"{folder}-snapshots"), tmp_path / "again")["epochs"]) == 4


def test_a_folder_with_something_else_is_left_alone(trained, whole, tmp_path):
    with pytest.raises(UserError, match="holds no diagnosis"):
        diagnose(trained, trained)
    with pytest.raises(UserError, match="holds a diagnosis with another attack; choose another --out"):
        diagnose(trained, whole[1], config.Spec.model_validate("nearest"))
    shutil.copytree(whole[1], tmp_path / "damaged")
    (tmp_path / "damaged" / diagnosis.FILE).write_text("{")
    with pytest.raises(UserError, match=r"diagnosis\.json is damaged"):
        diagnose(trained, tmp_path / "damaged")
    torch.save({}, snapshots.place(Path(shutil.copytree(trained, tmp_path / "run")), 2))
    with pytest.raises(UserError, match="cannot read the weights"):
        diagnose(tmp_path / "run", tmp_path / "new")
