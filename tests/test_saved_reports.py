"""Reports that are read back: each of the attacks of its own protocol, and of no other figures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.training_helpers import IMAGES, fit
from torch import nn

import splitveil as sv
from splitveil.evaluation import suites
from splitveil.runs import Run

X, Y = torch.rand(60, 1, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 3
SIDES: Any = {"learn_from": (X[:30], Y[:30]), "invert": (X[30:], Y[30:]), "progress": False}
OTHER = "tiny-v1@train_time"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory) -> Path:
    """A run with one suite under its own protocol and under another one."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    fit(folder, epochs=1, defense=())
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(suites.SUITES, "tiny-v1", suites.specs("linear:looks=1", "nearest"))
        for protocol in ("inference_time", "train_time"):
            suites.run_suite(Run.open(folder), "tiny-v1", IMAGES, protocol_name=protocol)
    return folder


@pytest.fixture
def run(attacked, tmp_path) -> Path:
    return shutil.copytree(attacked, tmp_path / "run")


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text())


def message(function: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(sv.UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_protocol_has_its_report(run):
    saved = sv.load(run)
    assert set(saved.reports) == {"tiny-v1", OTHER}
    for name, ending in (("tiny-v1", ""), (OTHER, "@train_time")):
        said, report = read(run / f"attacks/suite-{name}.json"), saved.reports[name]
        assert list(report.results) == ["linear", "nearest"]
        assert report.worst_case_mse == pytest.approx(said["worst_case"]["mse"]["mean"], rel=1e-5)
        for label, result in report.results.items():
            assert result is saved.results[label + ending]
            assert result.outcome.summary["protocol"] == said["protocol"]
        assert report.flags == said["flags"]
    assert f"holds the reports tiny-v1, {OTHER}; name one" in message(lambda: saved.report)
    assert f"there is no report 'other'; there are: tiny-v1, {OTHER}" in message(lambda: saved.reports["other"])


def test_a_report_of_another_protocol_stands_alone(run):
    (run / "attacks/suite-tiny-v1.json").unlink()
    for label in ("linear", "nearest"):
        shutil.rmtree(run / "attacks" / label)
    report = sv.load(run).report
    said = read(run / f"attacks/suite-{OTHER}.json")
    assert report.results["linear"].mse == pytest.approx(said["attacks"]["linear"]["mse"]["mean"], rel=1e-5)


def _figure(folder: Path) -> None:
    file = folder / "suite-tiny-v1.json"
    said = read(file)
    said["attacks"]["linear"]["mse"]["mean"] *= 1.01
    file.write_text(json.dumps(said))


def _settings(folder: Path) -> None:
    file = folder / "linear/summary.json"
    summary = read(file)
    summary["attack"]["linear"]["looks"] = 2
    file.write_text(json.dumps(summary))


def _protocol(folder: Path) -> None:
    shutil.rmtree(folder / "linear")
    shutil.copytree(folder / "linear@train_time", folder / "linear")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (_figure, "linear: mse 0."),
        (_settings, "linear: other settings"),
        (_protocol, "linear: protocol inference_time, there train_time"),
        (lambda folder: shutil.rmtree(folder / "nearest"), "nearest is missing"),
    ],
)
def test_a_report_of_other_figures_is_refused(change, expected, run):
    """A second suite, or an attack with other settings, replaces the folder of an attack."""
    change(run / "attacks")
    saved = sv.load(run)
    said = message(lambda: saved.reports["tiny-v1"])
    assert f"suite-tiny-v1.json is not of the attacks beside it ({expected}" in said
    assert said.endswith("make its suite again, or remove the file")
    assert list(saved.reports) == [OTHER]
    assert saved.reports[OTHER].results["linear"] is saved.results["linear@train_time"]
    assert f"holds the reports {OTHER}, tiny-v1; name one" in message(lambda: saved.report)
    (run / f"attacks/suite-{OTHER}.json").unlink()
    assert expected in message(lambda: sv.load(run).report)


def test_the_file_of_a_suite_that_is_damaged_is_named(run):
    (run / "attacks/suite-tiny-v1.json").write_text('{"suite": "tiny-v1"}')
    assert "suite-tiny-v1.json is damaged (attacks: " in message(sv.load, run)


@pytest.fixture(scope="module")
def model() -> sv.SplitModel:
    net = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 3))
    return sv.split(net, "1", X[:1], defenses=["gaussian:0.1"])


def test_a_second_report_of_the_same_name_does_not_replace_the_first(model, tmp_path):
    first, second = (sv.evaluate(model, [name], **SIDES) for name in ("linear:looks=1", "nearest"))
    sv.save(first, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    said = message(sv.save, second, tmp_path)
    assert "suite-own-attacks.json is of another report of own attacks; choose an empty or new folder" in said
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    sv.save(first, tmp_path)
    sv.save(second.results["nearest"], tmp_path)
    assert set(sv.load(tmp_path).results) == {"linear", "nearest"}
    assert list(sv.load(tmp_path).report.results) == ["linear"]


def test_a_report_that_was_read_is_saved_again(model, tmp_path):
    sv.save(sv.evaluate(model, ["linear:looks=1", "nearest"], **SIDES), tmp_path / "one")
    net = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 3))
    again = sv.load(tmp_path / "one", network=net).report
    sv.save(again, tmp_path / "one")
    sv.save(again, tmp_path / "other")
    assert sv.load(tmp_path / "other").report.mse == pytest.approx(again.mse)
