"""benchmarks/short_front.py: its plan, its comparisons on made-up records, and one cell from training to record."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from networks import tiny
from splitveil import config, runs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import short_front

    monkeypatch.setattr(short_front, "TESTED", 1000)
    return short_front


def test_every_arm_of_the_plan_is_there(benchmark):
    for name, defense in benchmark.ENCODERS.items():
        settings = config.parse({**benchmark.rivals.SETTINGS, "defense": defense, "seed": 7}).resolve()
        assert benchmark.points(name)["own"] == {"sigma": settings.defense[0].parameters["sigma"]}
    every = {f"{name}/{point}" for name in benchmark.ENCODERS for point in benchmark.points(name)}
    assert len(every) == 18
    assert {*benchmark.ISOTROPIC.values(), *benchmark.FILLED.values()} <= every
    assert not set(benchmark.SEEDS) & set(benchmark.rivals.SEEDS)


def test_the_two_noises_are_compared_at_the_named_accuracies(benchmark):
    """Isotropic noise has the error 0.02 (2 − a) at accuracy a, water-filled noise 1.5 times as much."""
    made = _records(benchmark)
    found = benchmark.endpoints(made, "residual")
    assert [end["lost"] for end in found] == [0.01, 0.03]
    for end in found:
        value, low, high = end["difference"]
        assert value == pytest.approx(0.5, abs=0.05)
        assert low < value < high
        assert end["accuracy"] == pytest.approx(0.7 - end["lost"])
    one = benchmark.against(made, benchmark.FILLED, "cem/own", "residual")
    assert one["difference"][0] == pytest.approx(-1 / 3, abs=0.05)
    other = benchmark.against(made, benchmark.ISOTROPIC, "cem/own", "linear")
    assert other["difference"][0] == pytest.approx(0, abs=0.05)


def test_nothing_is_said_of_an_arm_of_fewer_seeds(benchmark):
    made = _records(benchmark)
    made["cem-s8"] = {"cell": "cem-s8", "diverged": "the loss is nan"}
    result = benchmark.summarized(made)
    assert "cem/own" not in result["rows"]
    assert result["endpoints"]["linear"]
    assert "| `one`, λ = 4 | 67.5 |" in benchmark.table(result)
    del made["plain-s7"]
    assert benchmark.endpoints(made, "residual") is None


def test_the_picture_has_every_point_that_is_there(benchmark):
    import short_front_picture as picture

    made = _records(benchmark)
    made["cem-s8"] = {"cell": "cem-s8", "diverged": "the loss is nan"}
    (axes,) = picture.drawn(benchmark.summarized(made)["rows"]).axes
    shown = {text.get_text() for text in axes.get_legend().get_texts()}
    assert shown == {*picture.CURVES, *(label for name, (label, *_) in picture.BESIDE.items() if name[:3] != "cem")}
    lines, points = [line for line in axes.lines if line.get_linestyle() != "None"], axes.lines
    assert len(lines) == 2
    assert len(points) == 4 + len(picture.BESIDE) - 2


def test_points_are_told_in_words(benchmark):
    told = {name: benchmark.label(name) for name in ("plain/own", "adversarial/waterfill-0.06", "plain/again-0.15")}
    assert told == {
        "plain/own": "isotropic, σ 0.025",
        "adversarial/waterfill-0.06": "`adversarial:0.3`, water-filled, 0.06 nats",
        "plain/again-0.15": "water-filled, 0.15 nats, Fisher information twice",
    }


def test_a_cell_leaves_all_that_the_comparison_needs(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.zoo, "build", tiny)
    settings = {"data": "digits", "train_size": 600, "recipe": "fast", "epochs": 2, "batch_size": 64}
    for name, value in {"SETTINGS": settings, "ATTACKS": ("linear",), "ATTACKER_SIZE": 60, "ATTACKED": 20}.items():
        monkeypatch.setattr(benchmark.rivals, name, value)
    monkeypatch.setattr(benchmark, "ATTACKS", ("linear",))
    monkeypatch.setattr("hardening_front.linkage", lambda *_: 0.5)  # its gallery needs 1,000 images
    some = {name: benchmark.points("plain")[name] for name in ("again-0.15",)}
    job = benchmark.Job("plain", 7, tmp_path / "none", tmp_path, 1, benchmark.ENCODERS["plain"], some)
    benchmark.run(job)
    record = json.loads((tmp_path / "plain-s7.json").read_text(encoding="utf-8"))
    assert set(record["points"]) == set(some)
    for point in record["points"].values():
        assert np.mean(point["mse_of"]["linear"]) == pytest.approx(point["linear"]["mse"], rel=1e-3)
        assert benchmark.gpu_cell.unpacked(point["hits"], 200).shape == (200,)
    (tmp_path / "records.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    assert list(benchmark.read([tmp_path / "records.jsonl"])) == ["plain-s7"]


def _records(benchmark) -> dict:
    rng, made = np.random.default_rng(0), {}
    lost = {"own": 0.0}
    lost |= {f"isotropic-{sigma}": 0.08 * sigma**0.5 for sigma in benchmark.SIGMAS}
    lost |= {f"waterfill-{loss}": 0.2 * loss for loss in benchmark.LOSSES}
    for cell, (encoder, seed) in benchmark.cells().items():
        rows = {}
        for point in benchmark.points(encoder):
            accuracy = 0.7 - (0.025 if encoder != "plain" else lost.get(point, 0.02))
            mean = 0.02 * (2 - accuracy) * (1.5 if point.startswith("waterfill") else 1)
            errors = {attack: list(mean * rng.uniform(0.98, 1.02, 100)) for attack in benchmark.ATTACKS}
            hits = np.arange(benchmark.TESTED) < benchmark.TESTED * accuracy
            row = {"accuracy": accuracy, "mse_of": errors, "hits": benchmark.gpu_cell.packed(list(hits))}
            scores = {attack: {"mse": np.mean(of), "ssim": 0.5} for attack, of in errors.items()}
            rows[point] = row | scores | {"linkage_1000": 1.0}
        made[cell] = {"cell": cell, "seed": seed, "points": rows}
    return made


def test_the_page_shows_the_record(benchmark):
    record = json.loads(benchmark.RECORD.read_text(encoding="utf-8"))
    page = (ROOT / "docs/harden.md").read_text(encoding="utf-8")
    for line in benchmark.table(record).splitlines():
        assert line in page
    told = page.partition("### Everything side by side")[2].partition("### Beside other defenses")[0]
    for attack, ends in record["endpoints"].items():
        for end in ends:
            assert benchmark._percent(end) in told, attack
    for name in ("README.md", "docs/results.md"):
        text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
        assert benchmark._percent(record["endpoints"]["residual"][1]) in text
        assert benchmark._percent(record["compared"]["cem/own"]["residual/isotropic"]) in text


def test_the_record_is_that_of_its_cells(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "TESTED", 10_000)
    made = benchmark.read([benchmark.RECORD.with_suffix(".jsonl")])
    assert made.keys() == benchmark.cells().keys()
    record = json.loads(benchmark.RECORD.read_text(encoding="utf-8"))
    for kind in ("isotropic", "waterfill"):
        curve = {"isotropic": benchmark.ISOTROPIC, "waterfill": benchmark.FILLED}[kind]
        found = benchmark.against(made, curve, "cem/own", "residual")
        assert found["difference"] == pytest.approx(
            record["compared"]["cem/own"][f"residual/{kind}"]["difference"], abs=0.02
        )
