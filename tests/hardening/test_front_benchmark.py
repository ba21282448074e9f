"""benchmarks/hardening_front.py: its noise by information, its order, and what the docs say of its record."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from scipy.optimize import minimize_scalar

ROOT = Path(__file__).parents[2]


@pytest.fixture
def front(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import hardening_front

    return hardening_front


@pytest.mark.parametrize(("fisher", "mu"), [(0.01, 1.0), (1.0, 0.3), (30.0, 2.0)])
def test_the_noise_by_information_is_the_least_of_its_sum(front, fisher, mu):
    f = torch.tensor([fisher], dtype=torch.float64)
    directions = front.Posterior(shapes=torch.eye(1).double(), fisher=f, explained=f)

    def total(log_n: float) -> float:
        n = torch.tensor(log_n, dtype=torch.float64).exp()
        return float(torch.log1p(1 / n) / 2 + mu / 2 * fisher * n)

    best = minimize_scalar(total, bounds=(-12, 12), method="bounded", options={"xatol": 1e-9})
    assert float(directions.noise(mu).log()) == pytest.approx(best.x, abs=1e-4)


def test_the_plain_encoder_of_the_first_seed_comes_first_and_every_encoder_once(front):
    plan = front.plan()
    assert plan[0] == ("plain", 1)
    assert sorted(plan) == sorted((name, seed) for name in front.ENCODERS for seed in front.SEEDS)


def test_means_are_of_points_that_every_seed_has(front):
    rows = {
        f"plain-{seed}/isotropic-0.07": {"accuracy": {"mean": 0.1 * seed}, "linear": {"mse": seed}} for seed in (1, 2)
    }
    assert not front.means(rows)
    rows["plain-3/isotropic-0.07"] = {"accuracy": {"mean": 0.6}, "linear": {"mse": 6}, "residual": {"mse": 1}}
    (mean,) = front.means(rows).values()
    assert mean["accuracy"]["mean"] == pytest.approx(0.3)
    assert mean["linear"]["mse"] == 3
    assert "residual" not in mean


def test_the_page_shows_what_the_record_holds(front):
    record = json.loads((ROOT / "benchmarks/hardening_front.json").read_text("utf-8"))
    page = (ROOT / "docs/hardening-measured.md").read_text("utf-8")
    means = front.means(record["points"])
    alone = {name: row for name, row in record["points"].items() if re.sub(r"-\d+/", "/", name) not in means}
    for row in [*means.values(), *alone.values()]:
        accuracy, decoder = f"| {100 * row['accuracy']['mean']:.1f} |", f" {row['decoder']['mse']:.4f} |"
        assert f"{accuracy} {row['linear']['mse']:.4f} |{decoder}" in page or accuracy + decoder in page
    differences = {front._percent(row["decoder"]["log_ratio"]) for row in record["compared"].values()}
    assert {text.replace("-", "−") for text in differences} <= set(re.findall(r"[+−]\d+ % \[[+−]\d+, [+−]\d+\]", page))
