"""benchmarks/tradeoff_follow.py: its plan, its comparison on made-up cells, and the page that quotes its record."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from splitveil import config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import tradeoff_follow

    return tradeoff_follow


def test_every_cell_of_the_plan_can_be_trained_and_the_control_comes_last(benchmark):
    made = benchmark.plan()
    settings = {name: config.parse({**made.settings, **cell}).resolve() for name, cell in made.cells.items()}
    assert [name for name in settings if name.startswith("one")] == list(settings)[-3:]
    assert {one.seed for one in settings.values()} == set(benchmark.SEEDS)
    assert settings["one-s1"].defense[1].parameters["clusters"] == 1


def test_an_arm_is_held_against_noise_of_its_own_accuracy(benchmark, tmp_path):
    """Noise has the error 0.01 (2 − 2 a) at accuracy a; the arm 30 % more than that at its own."""
    rng = np.random.default_rng(0)
    accuracies = {"noise-0.1": 0.6, "noise-0.2": 0.5, "noise-0.4": 0.4, "cem": 0.55}
    for seed in benchmark.SEEDS:
        for name, accuracy in accuracies.items():
            folder = tmp_path / f"{name}-s{seed}"
            mean = 0.02 * (1 - accuracy) * (1.3 if name == "cem" else 1)
            right = np.arange(1000) < 1000 * accuracy
            _write(folder / "test.csv", {"image": range(1000), "label": [1] * 1000, "predicted": right.astype(int)})
            for attack in ("linear", "residual"):
                metrics = dict.fromkeys(("mse", "psnr", "ssim"), mean * rng.uniform(0.99, 1.01, 50))
                _write(folder / "attacks" / attack / "per_image.csv", {"image": range(50), **metrics})
                (folder / "attacks" / attack / "summary.json").write_text("{}")
    found = benchmark.compared(tmp_path, benchmark.plan())
    assert set(found) == {"cem/linear", "cem/residual"}  # the control is not there
    assert found["cem/residual"]["log_ratio"]["mean"] == pytest.approx(np.log(1.3), abs=0.03)
    assert found["cem/residual"]["accuracy"] == pytest.approx(0.55)


def test_the_page_shows_the_record():
    record = json.loads((ROOT / "benchmarks/tradeoff_follow.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for arm in ("cem", "one"):
        found = record["compared"][f"{arm}/residual"], record["compared"][f"{arm}/linear"]
        errors = f"| {100 * found[0]['accuracy']:.1f} | {found[1]['mse']:.4f} | {found[0]['mse']:.4f} |"
        shares = " | ".join(_percent(one["log_ratio"]) for one in found)
        assert f"{errors} {shares} |" in page


def _percent(log_ratio: dict) -> str:
    mean, low, high = (f"{100 * np.expm1(x):+.0f}".replace("-", "−") for x in (log_ratio["mean"], *log_ratio["ci95"]))
    return f"{mean} % [{low}, {high}]"


def _write(path: Path, columns: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
