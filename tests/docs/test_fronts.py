"""The fronts of benchmarks/: their plans, their comparisons on made-up records, and a cell from training to record."""

from __future__ import annotations

import importlib
import json
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from networks import tiny
from splitveil import config, runs
from splitveil.hardening import search

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fronts(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import fronts

    monkeypatch.setattr(fronts, "TESTED", 1000)
    return fronts


@pytest.fixture
def front(fronts):
    import short_front

    return short_front.FRONT


@pytest.mark.parametrize(("stem", "points"), [("short_front", 18), ("full_front", 14)])
def test_every_arm_of_a_plan_is_there(fronts, stem, points):
    front = importlib.import_module(stem).FRONT
    assert front.stem == stem
    for name, defense in front.encoders.items():
        settings = config.parse({**front.how.settings, "defense": defense, "seed": 7}).resolve()
        assert front.points[name]["own"] == {"sigma": settings.defense[0].parameters["sigma"]}
    every = {f"{name}/{point}" for name in front.encoders for point in front.points[name]}
    assert len(every) == points
    assert {*front.isotropic.values(), *front.filled.values()} <= every
    assert front.names.keys() | {"plain"} == front.encoders.keys() == front.points.keys()


@pytest.mark.parametrize("stem", ["short_front", "full_front"])
def test_cells_on_record_are_whole_and_of_the_plan(fronts, stem, monkeypatch):
    monkeypatch.setattr(fronts, "TESTED", 10_000)
    front = importlib.import_module(stem).FRONT
    made = front.read([front.record.with_suffix(".jsonl")])
    for name, (encoder, seed) in front.cells().items():
        if record := made.get(name):
            assert (record["encoder"], record["seed"], record["defense"]) == (encoder, seed, front.encoders[encoder])
            assert record["points"].keys() == front.points[encoder].keys()
            for point in record["points"].values():
                right = fronts.gpu_cell.unpacked(point["hits"], fronts.TESTED)
                assert right.mean() == pytest.approx(point["accuracy"])
                assert all(len(point["mse_of"][attack]) == front.how.attacked for attack in front.how.attacks)
    assert front.record.is_file() == (made.keys() == front.cells().keys())


def test_no_seed_is_used_twice(fronts):
    import full_front
    import rivals
    import short_front
    import trained_tradeoff

    used = (rivals.SEEDS, short_front.FRONT.seeds, full_front.FRONT.seeds, trained_tradeoff.SEEDS)
    assert len({*used[0], *used[1], *used[2]}) == 9
    assert not {*used[2]} & {*used[3]}  # of the same trainings


def test_the_two_noises_are_compared_at_the_named_accuracies(front):
    """Isotropic noise has the error 0.02 (2 − a) at accuracy a, water-filled noise 1.5 times as much."""
    made = _records(front)
    found = front.endpoints(made, "residual")
    assert [end["lost"] for end in found] == [0.01, 0.03]
    for end in found:
        value, low, high = end["difference"]
        assert value == pytest.approx(0.5, abs=0.05)
        assert low < value < high
        assert end["accuracy"] == pytest.approx(0.7 - end["lost"])
    one = front.against(made, front.filled, "cem/own", "residual")
    assert one["difference"][0] == pytest.approx(-1 / 3, abs=0.05)
    other = front.against(made, front.isotropic, "cem/own", "linear")
    assert other["difference"][0] == pytest.approx(0, abs=0.05)


def test_nothing_is_said_of_an_arm_of_fewer_seeds(front):
    made = _records(front)
    made["cem-s8"] = {"cell": "cem-s8", "diverged": "the loss is nan"}
    result = front.summarized(made)
    assert "cem/own" not in result["rows"]
    assert result["endpoints"]["linear"]
    assert "| `one`, λ = 4 | 67.5 |" in front.table(result)
    del made["plain-s7"]
    assert front.endpoints(made, "residual") is None


def test_the_picture_has_every_point_that_is_there(front):
    import front_picture as picture

    made = _records(front)
    made["cem-s8"] = {"cell": "cem-s8", "diverged": "the loss is nan"}
    (axes,) = picture.drawn(front, front.summarized(made)["rows"]).axes
    shown = {text.get_text() for text in axes.get_legend().get_texts()}
    beside = picture.beside(front)
    on_curves = {picture.FILLED[0], picture.ISOTROPIC[0]}
    assert shown == on_curves | {label for name, (label, *_) in beside.items() if name[:3] != "cem"}
    lines, points = [line for line in axes.lines if line.get_linestyle() != "None"], axes.lines
    assert len(lines) == 2
    assert len(points) == 4 + len(beside) - 2


def test_points_are_told_in_words(front):
    told = {name: front.label(name) for name in ("plain/own", "adversarial/waterfill-0.06", "plain/again-0.15")}
    assert told == {
        "plain/own": "isotropic, σ 0.025",
        "adversarial/waterfill-0.06": "`adversarial:0.3`, water-filled, 0.06 nats",
        "plain/again-0.15": "water-filled, 0.15 nats, Fisher information twice",
    }


def test_a_cell_leaves_all_that_the_comparison_needs(fronts, front, tmp_path, monkeypatch):
    monkeypatch.setattr(runs.zoo, "build", tiny)
    settings = {"data": "digits", "train_size": 600, "recipe": "fast", "epochs": 2, "batch_size": 64}
    how = fronts.How(settings, ("linear",), attacker_size=60, attacked=20, tail_images=200)
    small = replace(front, how=how, points={"plain": {"again-0.15": front.points["plain"]["again-0.15"]}})
    monkeypatch.setattr("hardening_front.linkage", lambda *_: 0.5)  # its gallery needs 1,000 images
    retrained, tails = search.retrained, []

    def counted(model, tail, images, *rest, **named):
        tails.append(len(images))
        return retrained(model, tail, images, *rest, **named)

    monkeypatch.setattr(search, "retrained", counted)
    (job,) = small.jobs(["plain-s7"], {}, tmp_path / "none", tmp_path, 1)
    small.run(job)
    record = json.loads((tmp_path / "plain-s7.json").read_text(encoding="utf-8"))
    assert record["points"].keys() == {"again-0.15"}
    for point in record["points"].values():
        assert np.mean(point["mse_of"]["linear"]) == pytest.approx(point["linear"]["mse"], rel=1e-3)
        assert fronts.gpu_cell.unpacked(point["hits"], 200).shape == (200,)
    (tmp_path / "records.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    assert list(small.read([tmp_path / "records.jsonl"])) == ["plain-s7"]
    assert tails == [200, 200]


def test_a_seed_keeps_its_precision_on_another_machine(front):
    made = {"plain-s7": {"seed": 7, "precision": "bf16-mixed"}}
    first, second = front.jobs(["cem-s7", "cem-s8"], made, Path("data"), Path("out"), 1)
    assert first.how.settings == front.how.settings | {"precision": "bf16-mixed"}
    assert second.how.settings == front.how.settings


def test_a_benchmark_that_was_stopped_makes_no_cell_again_and_keeps_the_precision(fronts, front, tmp_path, monkeypatch):
    record = {"cell": "plain-s7", "seed": 7, "precision": "bf16-mixed", "points": {}}
    (tmp_path / "plain-s7.json").write_text(json.dumps(record), encoding="utf-8")
    asked = []

    pool = SimpleNamespace(map=lambda _, jobs, **__: asked.extend(jobs))
    context = SimpleNamespace(Pool=lambda *_, **__: nullcontext(pool))
    monkeypatch.setattr(fronts.multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(sys, "argv", ["short_front.py", "--out", str(tmp_path), "--done", "--only", "*-s7"])
    with pytest.raises(SystemExit, match="cells are missing: cem-s7, "):
        front.main("")
    assert [job.name for job in asked] == ["cem", "adversarial", "one", "released"]
    assert {job.how.settings["precision"] for job in asked} == {"bf16-mixed"}
    assert json.loads((tmp_path / "records.jsonl").read_text(encoding="utf-8")) == record


def _records(front) -> dict:
    import gpu_cell

    rng, made = np.random.default_rng(0), {}
    lost = {"own": 0.0}
    lost |= {name.partition("/")[2]: 0.08 * sigma**0.5 for sigma, name in list(front.isotropic.items())[1:]}
    lost |= {name.partition("/")[2]: 0.2 * loss for loss, name in list(front.filled.items())[1:]}
    for cell, (encoder, seed) in front.cells().items():
        rows = {}
        for point in front.points[encoder]:
            accuracy = 0.7 - (0.025 if encoder != "plain" else lost.get(point, 0.02))
            mean = 0.02 * (2 - accuracy) * (1.5 if point.startswith("waterfill") else 1)
            errors = {attack: list(mean * rng.uniform(0.98, 1.02, 100)) for attack in front.how.attacks}
            hits = np.arange(1000) < 1000 * accuracy
            row = {"accuracy": accuracy, "mse_of": errors, "hits": gpu_cell.packed(list(hits))}
            scores = {attack: {"mse": np.mean(of), "ssim": 0.5} for attack, of in errors.items()}
            rows[point] = row | scores | {"linkage_1000": 1.0}
        made[cell] = {"cell": cell, "seed": seed, "points": rows}
    return made


def test_the_page_shows_the_record(fronts, front):
    percent = fronts.percent
    record = json.loads(front.record.read_text(encoding="utf-8"))
    page = (ROOT / "docs/hardening-measured.md").read_text(encoding="utf-8")
    for line in front.table(record).splitlines():
        assert line in page
    told = page.partition("### Everything side by side")[2].partition("### Beside other defenses")[0]
    for attack, ends in record["endpoints"].items():
        for end in ends:
            assert percent(end) in told, attack
    for name in ("README.md", "docs/results.md"):
        text = " ".join((ROOT / name).read_text(encoding="utf-8").split())
        assert percent(record["endpoints"]["residual"][1]) in text
        assert percent(record["compared"]["cem/own"]["residual/isotropic"]) in text


def test_the_record_is_that_of_its_cells(fronts, front, monkeypatch):
    monkeypatch.setattr(fronts, "TESTED", 10_000)
    made = front.read([front.record.with_suffix(".jsonl")])
    assert made.keys() == front.cells().keys()
    record = json.loads(front.record.read_text(encoding="utf-8"))
    for kind in ("isotropic", "waterfill"):
        curve = {"isotropic": front.isotropic, "waterfill": front.filled}[kind]
        found = front.against(made, curve, "cem/own", "residual")
        assert found["difference"] == pytest.approx(
            record["compared"]["cem/own"][f"residual/{kind}"]["difference"], abs=0.02
        )


@pytest.mark.parametrize("stem", ["short_front", "full_front"])
def test_the_page_shows_the_table_and_the_endpoints(fronts, stem):
    front = importlib.import_module(stem).FRONT
    page = (ROOT / "docs" / "hardening-measured.md").read_text(encoding="utf-8")
    record = json.loads(front.record.read_text(encoding="utf-8"))
    assert front.table(record) in page
    for one in record["endpoints"]["residual"]:
        assert fronts.percent(one) in page


def test_the_page_shows_how_much_more_than_cem_water_filled_noise_left(fronts):
    record = json.loads((ROOT / "benchmarks" / "full_front.json").read_text(encoding="utf-8"))
    value, low, high = (
        1 / (1 + part) - 1 for part in record["compared"]["cem/own"]["residual/waterfill"]["difference"]
    )
    page = (ROOT / "docs" / "hardening-measured.md").read_text(encoding="utf-8")
    assert f"{fronts.percent({'difference': [value, high, low]})}, which decide nothing" in page
