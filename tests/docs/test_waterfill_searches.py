"""benchmarks/waterfill_searches.py: its points and settings, and its comparison on made-up errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from splitveil.config import Spec

ROOT = Path(__file__).parents[2]
ACCURACY = {"isotropic-0.1": 0.6, "isotropic-0.2": 0.55, "isotropic-0.4": 0.5, "waterfill-0.06": 0.55}


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import waterfill_searches

    return waterfill_searches


def test_its_points_are_those_of_the_short_front_and_its_attacks_can_be_made(benchmark):
    import short_front

    assert set(benchmark.POINTS) <= set(short_front.FRONT.points["plain"])
    for text in benchmark.ATTACKS.values():
        Spec.model_validate(text).resolve("attacks").make("attacks")


def test_each_attack_and_the_best_behind_each_wire_are_compared_at_equal_accuracy(benchmark, monkeypatch):
    """Water-filled noise leaves 1.4 times the error by one attack; another is better behind it and finds 1.2 times."""

    def errors(folder: Path, label: str) -> dict[str, np.ndarray]:
        rng, point = np.random.default_rng(1), folder.name.partition("-")[2].partition("-")[2]
        mean = 0.02 * (2 - ACCURACY[point])
        mean *= {"diffusion-residual": 1.2, "refine-residual": 1.5}.get(label, 1.4) if "waterfill" in point else 1
        return {"mse": mean * rng.uniform(0.9, 1.1, 100) * (1 if label == "residual-100" else 1.001)}

    def answers(folder: Path) -> np.ndarray:
        return np.arange(1000) < 1000 * ACCURACY[folder.name.partition("-")[2].partition("-")[2]]

    monkeypatch.setattr(benchmark.records, "per_image", errors)
    monkeypatch.setattr(benchmark.records, "answers", answers)
    folders = {seed: [Path(f"plain-s{seed}-{point}") for point in benchmark.POINTS] for seed in (7, 8)}
    made = benchmark.compared(folders)
    ratios = {"residual-100": 0.4, "refine-residual": 0.5, "diffusion-residual": 0.2, "best": 0.2}
    for label, expected in ratios.items():
        for found in (made["difference"], *made["difference_of_each"].values()):
            value, low, high = found[label]["difference"]
            assert value == pytest.approx(expected, abs=0.03)
            assert low < value < high
    assert made["rows"]["plain-s7-waterfill-0.06"]["accuracy"] == 0.55


def test_the_page_shows_the_record(benchmark):
    import fronts
    import short_front

    record = json.loads(benchmark.RECORD.read_text(encoding="utf-8"))
    page = (ROOT / "docs/hardening-measured.md").read_text(encoding="utf-8")
    for name, row in record["rows"].items():
        errors = " | ".join(f"{row[attack]:.4f}" for attack in benchmark.ATTACKS)
        point = short_front.FRONT.label(f"plain/{name.removeprefix('plain-s7-')}")
        assert f"| {point} | {100 * row['accuracy']:.1f} | {errors} |" in page
    told = [fronts.percent(record["difference"][attack]) for attack in (*benchmark.ATTACKS, "best")]
    assert f"| {' | '.join(told[:-1])} |" in page
    assert told[-1] in (ROOT / "README.md").read_text(encoding="utf-8")
