"""The figures of docs/hardening-measured.md on larger images are those of their records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
ATTACKS = ("linear", "decoder", "residual")


@pytest.mark.parametrize("stem", ["resnet20", "resnet18"])
def test_the_page_shows_the_record(stem):
    record = json.loads((ROOT / f"benchmarks/hardening_{stem}.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs/hardening-measured.md").read_text(encoding="utf-8")
    assert f"| that of the training, σ 0.025 | {100 * record['before']['mean']:.1f} |" in page
    for arm in ("isotropic-1", "waterfill-1"):
        made = record["arms"][arm]
        last = made["steps"][-1]
        noise = f"isotropic, σ {last['mu']:.2f}" if arm == "isotropic-1" else f"water-filled, {last['loss']:.3f} nats"
        errors = " | ".join(f"{made['mse'][attack]['mean']:.4f}" for attack in ATTACKS)
        assert f"| {noise} | {100 * made['accuracy']['mean']:.1f} | {errors} |" in page
    assert " | ".join(percent(record["ratio-1"][attack]) for attack in ATTACKS) in page


def percent(ratio: dict[str, Any]) -> str:
    mean, low, high = (f"{100 * (value - 1):+.0f}" for value in (ratio["mean"], *ratio["ci95"]))
    return f"{mean} % [{low}, {high}]"
