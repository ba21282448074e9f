"""benchmarks/predictors.py in small: what it correlates, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from torch import nn

from splitveil import runs
from splitveil.evaluation import suites
from splitveil.zoo import Parts

SPEARMANR: Any = stats.spearmanr
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def narrow(*_, classes: int, **__) -> Parts:
    """Images 32×32 to a wire of 32 values."""
    encoder = nn.Sequential(nn.Conv2d(3, 2, 8, stride=8), nn.Sigmoid())
    return Parts(encoder, nn.Sequential(nn.Flatten(), nn.Linear(32, classes)))


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import predictors

    monkeypatch.setattr(runs.zoo, "build", narrow)
    monkeypatch.setattr(suites, "SUITES", dict(suites.SUITES))
    return predictors


def run(benchmark, monkeypatch, out: Path, only: str = "[ndv]*") -> dict:
    monkeypatch.setattr(sys, "argv", ["predictors.py", "--rehearse", "--only", only, "--out", str(out)])
    benchmark.main()
    return json.loads((out / "predictors.json").read_text())


def test_a_rehearsal_correlates_what_each_model_says_and_goes_on(benchmark, monkeypatch, tmp_path):
    monkeypatch.setattr(
        benchmark,
        "MODELS",
        {
            name: benchmark.MODELS[name]
            for name in ("noise 0.025", "noise 0.1", "noise 0.4", "nopeek", "dropout", "vib")
        },
    )
    record = run(benchmark, monkeypatch, tmp_path, "noise*")
    assert [row["model"] for row in record["models"]] == ["noise 0.025", "noise 0.1", "noise 0.4"]
    assert record["primary"] == {"models": 3}
    assert not (BENCHMARKS / "predictors.json").exists() or "digits" not in (BENCHMARKS / "predictors.json").read_text()
    made, fit = [], benchmark.attacked
    monkeypatch.setattr(benchmark, "attacked", lambda *given: made.append(given[0].path.name) or fit(*given))
    record = run(benchmark, monkeypatch, tmp_path, "*")
    assert made == ["nopeek", "dropout", "vib"]
    rows = {row["model"]: row for row in record["models"]}
    assert set(rows["dropout"]["missing"]) == {"held_out", "dfil"}
    assert set(rows["vib"]["missing"]) == {"dfil"}
    assert not rows["nopeek"]["missing"]
    for row in rows.values():
        assert 0 <= row["linkage"] <= 1
        assert row["mse"]["mean"] <= min(one["mse"]["mean"] for one in row["attacks"].values())
    noisy = [rows[name] for name in ("noise 0.025", "noise 0.1", "noise 0.4")]
    for key in ("held_out", "logged", "dfil"):
        assert noisy[0][key] > noisy[1][key] > noisy[2][key]
    spoken = [row for row in rows.values() if "dfil" in row]
    expected = SPEARMANR([row["dfil"] for row in spoken], [-row["mse"]["mean"] for row in spoken]).statistic
    found = record["correlation"]["mse"]["dfil"]
    assert (found["models"], found["mean"]) == (4, pytest.approx(expected))
    assert record["primary"]["models"] == 4
    assert (tmp_path / "predictors.png").read_bytes().startswith(b"\x89PNG")


def test_a_better_predictor_is_found_and_equal_ones_do_not_differ(benchmark):
    rows = [
        {"held_out": n, "logged": n, "dfil": (7 * n) % 12, "linkage": n / 20, "mse": {"mean": 1 / (n + 1)}}
        for n in range(12)
    ]
    found = benchmark.compared(rows, "mse", 0.95)
    assert found["held_out − logged"] == {"mean": 0, "interval": [0, 0]}
    low, high = found["held_out − dfil"]["interval"]
    assert 0 < low < found["held_out − dfil"]["mean"] < high


def test_a_name_that_is_no_model(benchmark, monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"no model matches nothing; there are: noise 0\.025"):
        run(benchmark, monkeypatch, tmp_path, "nothing")


def test_the_page_shows_the_record(benchmark):
    record = json.loads((BENCHMARKS / "predictors.json").read_text(encoding="utf-8"))
    page = (BENCHMARKS.parent / "docs" / "bounds.md").read_text(encoding="utf-8")
    assert len(record["models"]) + len(record["diverged"]) == len(benchmark.MODELS)
    for part in benchmark.table(record).split("\n\n"):
        assert part in page
    for key, difference in record["primary"].items():
        if key.startswith("held_out"):
            low, high = (f"{value:.2f}".replace("-", "−") for value in difference["interval"])
            assert f"[{low}, {high}]" in page
