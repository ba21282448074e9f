"""Every row of the tables on docs/results.md is the one that its record gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "docs/results.md").read_text(encoding="utf-8").splitlines()
TRADEOFF = {
    "noise-0.025-s0": "σ = 0.025",
    "noise-0.2-s0": "σ = 0.2",
    "noise-0.4-s0": "σ = 0.4",
    "bound-1.6-s0": "σ = 0.025, `cem:1.6`",
    "bound-4-s0": "σ = 0.025, `cem:4`",
    "bound-16-s0": "σ = 0.025, `cem:16`",
    "released-1.6-s0": "σ = 0.025, `cem:weight=1.6,loss=released`",
    "released-16-s0": "σ = 0.025, `cem:weight=16,loss=released`",
}
DEFENSES = {
    "bottleneck": ("bottleneck", "gaussian:0.025"),
    "adversarial": ("`adversarial:0.3` (ResSFL)", "adversarial:0.3"),
    "nopeek": ("`nopeek:0.5` (DistCorr)", "nopeek:0.5"),
    "dropout": ("`dropout:0.2`", "dropout:0.2"),
    "noise_adversarial": ("noise + `adversarial` (Noise_ARL)", "adversarial:0.3"),
    "patrol_adversarial": ("`patrol` + `adversarial`", None),
    "noise_nopeek": ("noise + `nopeek` (Noise_Nopeek)", "nopeek:0.5"),
}
ATTACKS = ("none", "gaussian", "gaussian_cem", "adversarial_cem")


def record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / f"benchmarks/{name}.json").read_text(encoding="utf-8"))


def cells(name: str) -> dict[str, Any]:
    return {cell["cell"]: cell for cell in record(name)["cells"]}


def bracketed(value: dict[str, Any], digits: int, scale: float = 1) -> str:
    low, high = value["ci95"]
    return f"{scale * value['mean']:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def half(value: dict[str, Any], digits: int, scale: float = 1) -> str:
    low, high = value["ci95"]
    return f"{scale * value['mean']:.{digits}f} ±{scale * (high - low) / 2:.{digits}f}"


@pytest.mark.parametrize("cell", TRADEOFF)
def test_a_row_of_noise_and_cem(cell):
    one = cells("tradeoff")[cell]
    columns = [TRADEOFF[cell], bracketed(one["accuracy"], 1, 100)]
    columns += [bracketed(one[attack]["mse"], 4) for attack in ("decoder", "linear")]
    columns.append(f"{one['decoder']['ssim']['mean']:.3f}")
    assert f"| {' | '.join(columns)} |" in LINES


@pytest.mark.parametrize("name", DEFENSES)
def test_a_row_of_cem_on_a_defense(name):
    title, step = DEFENSES[name]
    pair = [cells("defenses")[f"{name}-cem{weight}"] for weight in (0, 16)]
    columns = [
        title,
        " → ".join(half(one["accuracy"], 1, 100) for one in pair),
        " → ".join(half(one["decoder"]["mse"], 4) for one in pair),
        " → ".join(f"{one['linear']['mse']['mean']:.4f}" for one in pair),
        " → ".join(f"{one['decoder']['ssim']['mean']:.3f}" for one in pair),
        f"{record('defense_cost')['steps'][step]['ratio']:.2f}".rstrip("0").rstrip(".") if step else "",
    ]
    assert f"| {' | '.join(columns)} |".replace("|  |", "| |") in LINES


@pytest.mark.parametrize("label", [*record("attacks")["cells"]["none"]["attacks"], "worst case", "accuracy %"])
def test_a_row_of_the_attacks(label):
    found = [record("attacks")["cells"][name] for name in ATTACKS]
    if label == "worst case":
        columns = ["**worst case**", *(half(one["worst_case"]["mse"], 4) for one in found)]
    elif label == "accuracy %":
        columns = [label, *(half(one["accuracy"], 1, 100) for one in found)]
    else:
        rows = [(one["attacks"][label], one["wins"].get(label, 0)) for one in found]
        columns = [f"`{label}`"]
        columns += [f"{half(one['mse'], 4)}, {one['ssim']['mean']:.2f}, {wins}" for one, wins in rows]
    assert f"| {' | '.join(columns)} |" in LINES


def test_the_speed_table():
    records = [record("speed"), record("speed_bf16")]
    assert records[0]["machine"]["winograd"]
    assert records[1]["machine"]["precision"] == "bf16-mixed"
    for ratio, slow, fast in (
        ("plain loop / default step", "plain fp32 loop", "step"),
        ("published step with CEM / ours", "published step with CEM", "step with CEM"),
        ("plain attack step / ours", "plain attack step", "attack step"),
    ):
        cells = [
            f"{one['ratios'][ratio]['median']:.2f} ({one['milliseconds'][slow]:,.0f} ms / "
            f"{one['milliseconds'][fast]:,.0f} ms)"
            for one in records
        ]
        assert any(line.endswith(f"| {' | '.join(cells)} |") for line in LINES), cells
    (told,) = [line for line in LINES if "as it was published? |" in line]
    for one in records:
        assert f"{one['ratios']['published step with CEM / ours']['median']:.2f} times" in told
