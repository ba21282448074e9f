"""benchmarks/rivals.py: its plan, its comparison on made-up points, and one encoder from training to attack."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from networks import tiny
from splitveil import config, runs

ROOT = Path(__file__).parents[2]
ACCURACIES = {
    "plain-own": 0.7,
    "plain-waterfill-0.06": 0.65,
    "plain-waterfill-0.15": 0.6,
    "plain-waterfill-0.4": 0.5,
    "cem-own": 0.55,
}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import rivals

    return rivals


def test_every_encoder_of_the_plan_can_be_trained(benchmark):
    for name, defense in benchmark.ENCODERS.items():
        settings = config.parse({**benchmark.SETTINGS, "defense": defense, "seed": 4}).resolve()
        assert settings.recipe == "fast"
        assert benchmark.points(name)["own"] == {"sigma": settings.defense[0].parameters["sigma"]}
    assert set(benchmark.points("cem")) == {"own"}


def test_a_rival_is_held_against_water_filled_noise_of_its_accuracy(benchmark, tmp_path):
    """Water-filled noise has the error 0.03 (1 − a) at accuracy a, from 0.65 down, and CEM 0.026 (1 − a)."""
    rng = np.random.default_rng(0)
    for seed in benchmark.SEEDS:
        for point, accuracy in ACCURACIES.items():
            encoder, _, noise = point.partition("-")
            mean = (1 - accuracy) * (0.026 if encoder == "cem" else 0.03 if "waterfill" in noise else 0.02)
            _point(tmp_path / f"{encoder}-s{seed}-{noise}", accuracy, mean * rng.uniform(0.99, 1.01, 50))
    every = benchmark.compared(tmp_path)
    found = every["cem"]["residual"]
    assert found["accuracy"] == pytest.approx(0.55)
    assert found["log_ratio"]["mean"] == pytest.approx(np.log(0.026 / 0.03), abs=0.03)
    assert every["one"]["residual"] is None


def test_an_encoder_is_trained_hardened_and_attacked_once(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.zoo, "build", tiny)
    settings = {"data": "digits", "train_size": 600, "recipe": "fast", "epochs": 2, "batch_size": 64}
    monkeypatch.setattr("hardening_front.linkage", lambda *_: 0.5)  # its gallery needs 1,000 images
    how = benchmark.How(settings, ("linear",), attacker_size=60, attacked=20)
    parts = benchmark.ENCODERS["one"], benchmark.points("one"), how
    job = benchmark.Job("one", 4, tmp_path / "none", tmp_path, 1, *parts)
    benchmark.run(job)
    row = benchmark.rows(tmp_path)["one-s4-own"]
    assert row["linkage_1000"] == 0.5
    assert row["linear"]["mse"] > 0
    assert 0 <= row["accuracy"] <= 1
    monkeypatch.setattr("hardening_front.linkage", lambda *_: pytest.fail("a point that is done was made again"))
    benchmark.run(job)


def test_the_page_shows_the_record(benchmark):
    record = json.loads(benchmark.RECORD.read_text(encoding="utf-8"))
    page = (ROOT / "docs/hardening-measured.md").read_text(encoding="utf-8")
    for row in benchmark.table(record).splitlines():
        assert row.split(" | ", 1)[1].replace("-", "−") in page


def _point(folder: Path, accuracy: float, errors: np.ndarray) -> None:
    right = np.arange(1000) < 1000 * accuracy
    _write(folder / "test.csv", {"image": range(1000), "label": [1] * 1000, "predicted": right.astype(int)})
    for attack in ("linear", "residual"):
        metrics = dict.fromkeys(("mse", "psnr", "ssim"), errors)
        _write(folder / "attacks" / attack / "per_image.csv", {"image": range(len(errors)), **metrics})
    (folder / "row.json").write_text(json.dumps({}), encoding="utf-8")


def _write(path: Path, columns: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
