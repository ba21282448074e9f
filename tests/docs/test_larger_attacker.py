"""benchmarks/larger_attacker.py: its points, its ratio, and what the page says of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "hardening-measured.md"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    import larger_attacker

    return larger_attacker


def test_its_points_are_those_of_the_front(benchmark):
    from full_front import FRONT

    for name in benchmark.POINTS:
        encoder, _, point = name.format(10).partition("-s10-")
        assert point in FRONT.points[encoder]
    assert FRONT.how.attacker_size == benchmark.EARLIER
    assert FRONT.how.attacked == benchmark.ATTACKED


def test_errors_are_compared_image_by_image(benchmark, monkeypatch):
    """Behind adversarial training the error is 1.5 times as large with few images, and as large with many."""

    def errors(folder: Path, label: str) -> dict[str, np.ndarray]:
        of = np.random.default_rng(0).uniform(0.01, 0.03, 200)
        return {"mse": of * (1.5 if folder.name.startswith("adversarial") and label == "residual" else 1)}

    monkeypatch.setattr(benchmark.records, "per_image", errors)
    monkeypatch.setattr(benchmark.records, "answers", lambda _: np.array([True, False]))
    row = benchmark.compared({10: [Path(name.format(10)) for name in benchmark.POINTS]})["10"]
    assert row["1800 images"]["adversarial / waterfill"] == pytest.approx([1.5] * 3)
    assert row["9000 images"]["adversarial / waterfill"] == pytest.approx([1.0] * 3)
    assert set(row["accuracy"].values()) == {0.5}


def test_the_page_shows_the_record(benchmark):
    page, record = PAGE.read_text(encoding="utf-8"), json.loads(benchmark.RECORD.read_text(encoding="utf-8"))
    for seed, row in record["networks"].items():
        for size in ("1800 images", "9000 images"):
            errors = " | ".join(f"{row[size]['mse'][name.format(seed)]:.4f}" for name in benchmark.POINTS)
            ratios = [row[size][name] for name in ("adversarial / waterfill", "waterfill / isotropic")]
            told = " | ".join(f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in ratios)
            assert f"| {seed} | {int(size.split()[0]):,} | {errors} | {told} |" in page
