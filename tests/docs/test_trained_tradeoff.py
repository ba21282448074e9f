"""benchmarks/trained_tradeoff.py: its plan, its comparison on made-up records, and that nobody looks before the end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from splitveil import config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import trained_tradeoff

    return trained_tradeoff


@pytest.fixture
def made_up(benchmark, monkeypatch):
    """Records in which noise has the error 0.02 (1 − a) at accuracy a, and CEM 30 % more than that at its own."""
    from gpu_cell import packed

    monkeypatch.setattr(benchmark, "TESTED", 1000)

    def records(points: tuple[str, ...], factor: float = 1.3):
        rng, found = np.random.default_rng(0), {}
        accuracies = dict(
            zip([*benchmark.NOISE, *benchmark.CEM, *benchmark.CONTROL], (0.8, 0.75, 0.7, 0.77, 0.77), strict=True)
        )
        for seed in benchmark.SEEDS:
            for point in points:
                accuracy = accuracies[point]
                mean = 0.02 * (1 - accuracy) * (1 if point in benchmark.NOISE else factor)
                errors = (mean * rng.uniform(0.99, 1.01, 50)).tolist()
                right = packed((np.arange(benchmark.TESTED) < benchmark.TESTED * accuracy).tolist())
                found[f"{point}-s{seed}"] = {
                    "cell": f"{point}-s{seed}",
                    "seeds_planned": len(benchmark.SEEDS),
                    "inference_time": {
                        "attacks": {"linear": {"held_out": {"mse": 0.2}}, "residual": {"held_out": {"mse": 0.1}}}
                    },
                    "mse_of": {"linear": [3 * error for error in errors], "residual": errors},
                    **{key: {"mean": accuracy} for key in ("accuracy", "retrained_accuracy")},
                    **dict.fromkeys(("hits", "retrained_hits"), right),
                    "seconds": 60.0,
                    "tail_seconds": 60.0,
                }
        return found

    return records


def test_every_cell_can_be_trained_seed_by_seed_and_the_control_comes_last(benchmark):
    cells = benchmark.cells()
    assert [name for name in cells if name.startswith("one4")] == list(cells)[-len(benchmark.SEEDS) :]
    assert list(cells)[:5] == ["noise-0.1-s1", "noise-0.2-s1", "noise-0.4-s1", "cem4-s1", "noise-0.1-s2"]
    for defense, seed in cells.values():
        settings = config.parse({**benchmark.SETTINGS, "defense": defense, "seed": seed}).resolve()
        assert (settings.epochs, settings.optimizer) == (4, "muon")


def test_cem_is_held_against_noise_of_its_own_accuracy(benchmark, made_up):
    found = benchmark.summarized(made_up((*benchmark.NOISE, *benchmark.CEM)))
    assert found["endpoint"]["accuracy"] == pytest.approx(0.77)
    assert found["endpoint"]["difference"][0] == pytest.approx(0.3, abs=0.03)
    assert found["endpoint"]["verdict"] == "protects more than noise"
    assert found["endpoint"]["mse"] == pytest.approx(0.02 * 0.23 * 1.3, rel=0.01)  # of the better attack
    assert set(found["secondary"]) == {"cem4"}  # the control is not there
    assert found["rows"]["noise-0.2"]["accuracy"] == [0.75, 0.0]


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        ([0.3, 0.12, 0.5], "protects more than noise"),
        ([0.3, 0.08, 0.5], "not decided"),
        ([0.0, -0.05, 0.05], "protects as much as noise"),
        ([-0.3, -0.4, -0.2], "protects less than noise"),
        (None, "outside the curve"),
    ],
)
def test_the_verdict_is_that_of_the_plan(benchmark, difference, said):
    assert benchmark.verdict(difference) == said


def test_nothing_is_compared_before_all_cells_are_there(benchmark, made_up):
    records = made_up((*benchmark.NOISE, *benchmark.CEM))
    del records["noise-0.4-s4"]
    found = benchmark.summarized(records)
    assert found["endpoint"] is None
    assert not found["secondary"]


def test_the_first_record_of_a_cell_counts_and_one_of_another_plan_is_refused(benchmark, made_up, tmp_path):
    (name, record), *_ = made_up(("cem4",)).items()
    file = tmp_path / "records.jsonl"
    file.write_text("".join(json.dumps({**record, "seconds": seconds}) + "\n" for seconds in (1, 2)))
    assert benchmark.read([file, tmp_path / "none"])[name]["seconds"] == 1
    file.write_text(json.dumps({**record, "seeds_planned": 3}) + "\n")
    with pytest.raises(SystemExit, match="another plan"):
        benchmark.read([file])


def test_the_cells_of_a_seed_are_trained_in_one_precision(benchmark, monkeypatch):
    records = {
        "a": {"seed": 1},  # of before the rule was written
        "b": {"seed": 2, "precision": "bf16-mixed"},
    }
    for auto in ("32-true", "bf16-mixed"):
        monkeypatch.setattr(benchmark, "precision", lambda *_, auto=auto: auto)
        assert [benchmark.precision_of(seed, records) for seed in (1, 2, 3)] == ["32-true", "bf16-mixed", auto]
    with pytest.raises(SystemExit, match="expected one precision"):
        benchmark.precision_of(2, records | {"c": {"seed": 2, "precision": "32-true"}})


@pytest.mark.parametrize(("accuracy", "added"), [(0.77, None), (0.8, 0.05), (0.69, 0.8)])
def test_noise_is_added_by_accuracies_alone_where_cem_is_not_between(benchmark, made_up, accuracy, added):
    from gpu_cell import packed

    records = made_up((*benchmark.NOISE, *benchmark.CEM))
    right = packed((np.arange(benchmark.TESTED) < benchmark.TESTED * accuracy).tolist())
    for seed in benchmark.SEEDS:
        records[f"cem4-s{seed}"] |= {"retrained_hits": right}
    assert benchmark.missing_end({name: {**one, "mse_of": None} for name, one in records.items()}) == added
    names = [f"noise-{added}-s{seed}" for seed in benchmark.SEEDS] if added else []
    assert list(benchmark.cells(records))[16 : 16 + len(names)] == names
    assert len(benchmark.cells(records)) == 20 + len(names)
    assert (benchmark.summarized(records)["endpoint"] is None) == bool(added)  # nothing is looked at before
    assert benchmark.missing_end(dict(list(records.items())[:15])) is None


def test_a_machine_without_bf16_takes_the_seeds_first_that_need_none(benchmark, monkeypatch):
    cells = list(benchmark.cells())
    records = {name: {"seed": benchmark.cells()[name][1], "precision": "32-true"} for name in cells[:4]}
    records[cells[4]] = {"seed": 2, "precision": "bf16-mixed"}
    for auto, expected in (("bf16-mixed", cells[5]), ("32-true", cells[8])):
        monkeypatch.setattr(benchmark, "precision", lambda *_, auto=auto: auto)
        assert benchmark.following(records) == expected
    rest = {name: {"seed": benchmark.cells()[name][1], "precision": "32-true"} for name in cells[8:]}
    monkeypatch.setattr(benchmark, "missing_end", lambda _: None)
    assert benchmark.following(records | {name: one for name, one in rest.items() if one["seed"] != 2}) == cells[5]


def test_all_attacks_are_trained_in_fp32(benchmark, monkeypatch, tmp_path):
    from splitveil.attacks._rounding import in_bf16

    class Stopped(Exception):
        pass

    def attacked(cell):
        assert not in_bf16(torch.rand(8, 4))
        raise Stopped

    monkeypatch.setattr(benchmark.gpu_cell, "run", attacked)
    with pytest.raises(Stopped):
        benchmark.measure("cem4-s2", tmp_path, tmp_path, {})


def test_a_strength_is_added_by_the_draws_of_the_comparison(benchmark, made_up, monkeypatch):
    """Errors are drawn before answers: of another number of images, the answers would be drawn otherwise."""
    records = made_up((*benchmark.NOISE, *benchmark.CEM))
    monkeypatch.setattr(benchmark, "ATTACKED", 50)
    at_equal_accuracy, shapes = benchmark.at_equal_accuracy, []

    def noted(sigmas, errors, hits, **more):
        shapes.append([one.shape for one in (*errors, *hits)])
        return at_equal_accuracy(sigmas, errors, hits, **more)

    monkeypatch.setattr(benchmark, "at_equal_accuracy", noted)
    assert benchmark.missing_end(records) is None
    assert benchmark.compared(records, benchmark.SIGMAS, "cem4", "best", "retrained_hits")
    assert shapes[0] == shapes[1]


def test_the_picture_shows_each_training_and_the_curve(benchmark, made_up):
    import trained_tradeoff_picture as picture

    records = made_up((*benchmark.NOISE, *benchmark.CEM))
    accuracy, error = picture.places(records, "cem4").mean(0)
    assert (accuracy, error) == (pytest.approx(77), pytest.approx(0.02 * 0.23 * 1.3, rel=0.01))
    means = np.array([picture.places(records, point).mean(0) for point in benchmark.NOISE])
    at, found = picture.curve(means, benchmark.SIGMAS)
    assert np.interp(77, at, found) == pytest.approx(0.02 * 0.23, rel=0.01)
    (axes,) = picture.drawn(records, benchmark.SIGMAS).axes
    assert sum(len(line.get_xdata()) == len(benchmark.SEEDS) for line in axes.lines) == 4
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "noise of 0.025 and cem:4",
        "noise alone, σ = 0.1, 0.2, 0.4",
    ]


def test_no_picture_is_drawn_before_the_comparison(benchmark, monkeypatch, tmp_path):
    import trained_tradeoff_picture as picture

    monkeypatch.setattr(benchmark, "RECORD", tmp_path / "none.json")
    monkeypatch.setattr("sys.argv", ["trained_tradeoff_picture.py", "--out", str(tmp_path / "x.png")])
    with pytest.raises(SystemExit, match=r"none.json is not there: nothing is drawn"):
        picture.main()
    assert not (tmp_path / "x.png").exists()
