"""benchmarks/recipe_trials.py: each trial is the training of its name, and is compared with the recipe as it is."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from networks import tiny
from splitveil import runs
from splitveil.data import protocol
from splitveil.data.protocol import some
from splitveil.runs import Run
from splitveil.training import trainer

ROOT = Path(__file__).parents[2]
SETTINGS = {"data": "digits", "train_size": 200, "test_size": 40, "batch_size": 50, "defense": ["gaussian:0.1"]}


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import recipe_trials

    monkeypatch.setattr(runs.zoo, "build", tiny)
    monkeypatch.setattr(recipe_trials, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(recipe_trials, "SETTINGS", SETTINGS | {"recipe": "fast"})
    trials = [{"epochs": 1}, {"epochs": 1, "lr": 0.1, "cutout": 2}, {"epochs": 2, "lr": 0.1}]
    monkeypatch.setattr(recipe_trials, "TRIALS", trials)
    return recipe_trials


def rows(folder: Path) -> dict[str, dict]:
    return {row["trial"]: row for row in json.loads((folder / "record.json").read_text("utf-8"))["trials"]}


def run(benchmark, monkeypatch, *given: str) -> None:
    monkeypatch.setattr(sys, "argv", ["recipe_trials.py", *given])
    benchmark.main()


def test_trials_are_trained_once_and_compared_after_as_many_epochs(benchmark, tmp_path, monkeypatch):
    out = tmp_path / "trials"
    run(benchmark, monkeypatch, "--out", str(out))
    found = rows(tmp_path)
    assert list(found) == ["epochs=1", "epochs=1,lr=0.1,cutout=2", "epochs=2,lr=0.1"]
    assert [name for name, row in found.items() if "difference" in row] == ["epochs=1,lr=0.1,cutout=2"]
    settings = Run.open(out / "epochs=1,lr=0.1,cutout=2").settings
    assert (settings.lr, settings.cutout, settings.matrix_lr, settings.seed) == (0.1, 2, 0.3, 0)
    for name, row in found.items():
        summary = Run.open(out / name).summary
        assert row["validation_accuracy"]["mean"] == pytest.approx(summary["accuracy_val"], abs=0.1)
        images = runs.load_images(settings)
        learned = protocol(settings.protocol, images, seed=0).defender_train  # fewer than 5,000
        hits = trainer.correct(Run.open(out / name).model(images).eval(), learned, torch.Generator().manual_seed(1))
        assert row["training_accuracy"]["mean"] == pytest.approx(float(hits.float().mean()), abs=0.05)
    change = [found[name]["validation_accuracy"]["mean"] for name in ("epochs=1,lr=0.1,cutout=2", "epochs=1")]
    assert found["epochs=1,lr=0.1,cutout=2"]["difference"]["mean"] == pytest.approx(change[0] - change[1])
    monkeypatch.setattr(benchmark.trainer.Trainer, "finish", None)  # nothing is trained anew
    for more in ([], ["--epochs", "2"]):
        run(benchmark, monkeypatch, "--out", str(out), *more)
        assert rows(tmp_path) == found


def test_the_images_that_were_learned_are_of_all_classes(benchmark, tmp_path, monkeypatch):
    """They are sorted by class in the folders of CIFAR-10, so that the first 5,000 are nearly all of one."""
    seen = []

    def spy(split, count, rng):
        found = some(split, 60, rng)
        seen.append(len(set(found.labels.tolist())))
        return found

    monkeypatch.setattr(benchmark, "some", spy)
    run(benchmark, monkeypatch, "--out", str(tmp_path / "trials"), "--epochs", "2")
    assert seen == [10]


def test_the_page_has_the_figures_of_the_record():
    page = (ROOT / "docs/recipes.md").read_text("utf-8").partition("### What else was tried")[2].partition("## On")[0]
    shown = [re.findall(r"[−+]?\d+\.?\d*", "|".join(line.split("|")[3:])) for line in page.splitlines() if "| " in line]
    record = json.loads((ROOT / "benchmarks/recipe_trials.json").read_text("utf-8"))["trials"]
    assert len(record) == len(shown[1:]) == 8
    for row, found in zip(shown[1:], record, strict=True):
        change = found.get("difference", {"mean": None, "ci95": []})
        values = [found["training_accuracy"]["mean"], found["validation_accuracy"]["mean"]]
        values += [change["mean"], *change["ci95"]] if change["ci95"] else []
        assert [float(text.replace("−", "-")) for text in row] == pytest.approx([100 * v for v in values], abs=0.051)


def test_the_accuracies_of_the_table_are_those_of_the_records():
    page = (ROOT / "docs/recipes.md").read_text("utf-8")
    rows = re.findall(r"^\|.*\[record\]\(\.\./(benchmarks/cpu_records/.*\.json)\) \|$", page, re.MULTILINE)
    assert len(rows) == 5
    for line in page.splitlines():
        if line.startswith("|") and (name := next((name for name in rows if name in line), None)):
            record = json.loads((ROOT / name).read_text("utf-8"))
            accuracy, minutes = line.replace("*", "").split("|")[4:6]
            expected = [100 * v for v in (record["accuracy"]["mean"], *record["accuracy"]["ci95"])]
            assert [float(v) for v in re.findall(r"[\d.]+", accuracy)] == pytest.approx(expected, abs=0.051)
            assert float(re.findall(r"\d+", minutes)[0]) == pytest.approx(record["seconds"] / 60, abs=0.51)
