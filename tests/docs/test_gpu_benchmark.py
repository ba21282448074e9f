"""benchmarks/gpu.py, rehearsed on the CPU: what a borrowed GPU runs must not fail there for the first time."""

from __future__ import annotations

import json
import os
import pickle
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitveil import config
from splitveil.attacks.decoder import DecoderAttack
from splitveil.config import Spec
from splitveil.defenses.base import Stack
from splitveil.training.loop import check_epochs

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TESTED = 5000
"""Images whose classes are told; CIFAR-10 has 10,000."""
STAGES = ("cells", "strong", "explaining", "others")


class Here(ThreadPoolExecutor):
    """Workers in this process, which get and give what a process can be sent."""

    _processes = None

    def __init__(self, workers: int, context: BaseContext):
        assert context.get_start_method() == "spawn"
        super().__init__(workers)

    def submit(self, work: Any, *given: Any) -> Any:
        return super().submit(
            lambda sent: pickle.loads(sent[0])(*pickle.loads(sent[1])), [*map(pickle.dumps, (work, given))]
        )


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("gpu")


@pytest.fixture
def plan(gpu):
    return import_module("equal_accuracy_plan")


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# What is run


def test_the_rehearsal_runs_every_stage(gpu, tmp_path, small, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    given = ["--rehearse", "--out", tmp_path / "out", "--workers", 1, "--scratch", tmp_path / "scratch"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, given), "--only", "attack-linear"])
    gpu.main()
    records = written(tmp_path / "out" / "records.jsonl")
    expected = ["cem-64-s0", "strong-cem-64-s0", "published-ressfl-cem", "none-s0", "train-time-cem-64-s0"]
    expected += ["nopeek-cem-s0", "ablation-batch 256-s0", "check-attack-linear"]
    assert [record["cell"] for record in records] == expected, capsys.readouterr().out
    assert not any("failed" in record for record in records)
    first, strong = records[:2]
    assert len(first["inference_time"]["worst_case_mse"]) == 5
    assert list(strong["inference_time"]["attacks"]) == ["linear", "decoder", "residual", "refine", "diffusion"]
    assert list(records[4]["train_time"]["attacks"]) == ["linear", "decoder", "residual"]
    assert 0 <= first["retrained_accuracy"]["mean"] <= 1
    assert first["seeds_planned"] == 5
    # The later stage attacks the network of the first, and reads back what that one has done.
    assert strong["training_seconds"] == first["training_seconds"]
    both = [record["inference_time"]["attacks"]["residual"] for record in (first, strong)]
    assert both[0] == both[1]
    assert json.loads((tmp_path / "out" / "profile.json").read_text())["steps"][0]["milliseconds"] > 0


def test_a_rerun_leaves_out_what_is_done_and_runs_again_what_failed(gpu, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"cell": "a"}\n{"cell": "b", "failed": "out of memory"}\n')
    assert gpu.read([path, tmp_path / "none.jsonl"]) == {"a"}


def test_a_rerun_cannot_change_the_number_of_seeds(gpu, tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"cell": "cem-4-s0", "seeds_planned": 3}\n{"cell": "published-ressfl"}\n')
    assert gpu.read([path], 3) == {"cem-4-s0", "published-ressfl"}
    with pytest.raises(SystemExit, match="was made for 3 seeds; expected --seeds 5"):
        gpu.read([path], 5)


def test_the_cells_that_answer_the_question_come_first(gpu, plan):
    stages = gpu.gpu_stages.stages(3)
    assert list(stages)[:2] == ["cells", "strong"]
    cells = [cell for make in stages.values() for cell in make(gpu.gpu_stages.NETWORK | {"recipe": "fast"})]
    decisive = len(plan.decisive()) * 3
    assert {cell.attacks for cell in cells[:decisive]} == {plan.FIRST}
    assert [cell.name for cell in cells[decisive : 2 * decisive]] == list(plan.cells("strong", 3))
    assert len({cell.name for cell in cells}) == len(cells)
    assert [cell.name for cell in cells if cell.protocols == ("train_time",)] == list(plan.cells("train_time", 3))


def test_every_cell_of_the_list_can_be_trained(gpu):
    """A training refuses defenses that are put on a trained model, or that would never act."""
    base = gpu.gpu_stages.NETWORK | {"recipe": "fast"}
    cells = [cell for make in gpu.gpu_stages.stages(3).values() for cell in make(base)]
    for cell in [*cells, *gpu.gpu_stages.rehearsed(cells)]:
        settings = config.parse(cell.settings).resolve()
        check_epochs(Stack(*(spec.make("defenses") for spec in settings.defense)), settings.epochs)
    names = {cell.name for cell in cells}
    assert "check-cem" in names
    assert not names & {"check-codec", "check-waterfill", "check-waterfill_kronecker"}


def test_the_published_rows_are_trained_at_full_length(gpu):
    cells = gpu.gpu_stages.stages(5)["published"](gpu.gpu_stages.NETWORK | {"recipe": "fast"})
    assert [cell.name for cell in cells] == [
        "published-bottleneck",
        "published-bottleneck-cem",
        "published-ressfl",
        "published-ressfl-cem",
    ]
    for cell in cells:
        settings = config.parse(cell.settings).resolve()
        assert (settings.recipe, settings.epochs, settings.batch_size, settings.lr) == ("published", 240, 128, 0.05)


def test_three_attacks_of_the_plan_share_the_training_of_a_decoder(plan):
    made = {(spec := Spec.model_validate(text)).name: spec.make("attacks") for text in plan.FIRST + plan.LAST}
    assert list(made) == ["linear", "decoder", "residual", "refine", "diffusion"]
    decoders = [made["decoder"], made["refine"]._first, made["diffusion"]._first]
    assert all(isinstance(one, DecoderAttack) for one in decoders)
    assert vars(decoders[0]) == vars(decoders[1]) == vars(decoders[2])


# How it is run


def test_a_worker_that_is_killed_fails_its_own_cell_alone(gpu, tmp_path, monkeypatch, capsys):
    (tmp_path / "deadly.py").write_text(
        textwrap.dedent("""
            import os, signal

            def run(cell):
                if cell.name == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                return {"cell": cell.name, "seconds": 0.1}
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(gpu.gpu_cell, "run", import_module("deadly").run)
    cells = [gpu.Cell(name, {}) for name in ("before", "killed", "after", "last")]
    gpu.run_all(cells, tmp_path, set(), 1, time.monotonic() + 300)
    before, killed, *after = written(tmp_path / "records.jsonl")
    assert before == {"cell": "before", "seconds": 0.1}
    assert killed["cell"] == "killed"
    assert killed["failed"].startswith("its process was killed")
    assert [record["cell"] for record in after] == ["after", "last"]
    assert "FAILED its process was killed" in capsys.readouterr().out
    assert gpu.read([tmp_path / "records.jsonl"]) == {"before", "after", "last"}


def test_a_cell_waits_for_its_folder_and_is_not_begun_where_its_stage_takes_longer_than_is_left(gpu):
    cells = [
        gpu.Cell("long", {}, "published"),
        gpu.Cell("strong", {}, "strong", run="a"),
        gpu.Cell("short", {}, "cells"),
    ]
    assert gpu.startable(cells, set(), {}, 10).name == "long"
    assert gpu.startable(cells, set(), {"published": 60}, 10).name == "strong"
    assert gpu.startable(cells, {"a"}, {"published": 60}, 10).name == "short"
    assert gpu.startable(cells, {"a"}, {"published": 60, "cells": 20}, 10) is None


# What the records say


def simulated(plan: Any, gain: float, seeds: int = 3, stages: tuple[str, ...] = STAGES) -> list[dict[str, Any]]:
    """Records of the plan, where CEM multiplies the error of noise at equal accuracy by ``gain``."""
    packed = import_module("gpu_cell").packed
    rng, records = np.random.default_rng(0), []
    places = {f"noise-{sigma}": place for sigma, place in zip(plan.SIGMAS, np.linspace(0, 1, 5), strict=True)}
    places |= dict(zip(("cem-4", "cem-16", "cem-64"), (0.3, 0.6, 0.9), strict=True))
    for stage in stages:
        for name, settings in plan.cells(stage, seeds).items():
            point = name.removeprefix(plan.STAGES[stage]).rpartition("-s")[0]
            place = places.get(point, 0.5)
            hits = rng.random(TESTED) < 0.84 - 0.15 * place
            errors = 0.01 * np.exp(2 * place) * rng.gamma(4, 0.25, 500) * (gain if point.startswith("cem") else 1)
            attacks = {"decoder": {"mse": {"mean": errors.mean()}}}
            attacked = {"best_mse": errors.tolist(), "worst_case_mse": errors.tolist(), "attacks": attacks}
            accuracy = {"mean": hits.mean()}
            record = {"cell": name, "accuracy": accuracy, "retrained_accuracy": accuracy, "seed": settings["seed"]}
            record |= {"retrained_hits": packed(hits.tolist()), "leakage_nats": 1.0, "inference_time": attacked}
            records.append(record | {"seeds_planned": seeds})
    return records


@pytest.fixture
def look(gpu, tmp_path, monkeypatch):
    """Let benchmarks/equal_accuracy.py look at records, and return what it leaves."""
    equal_accuracy = import_module("equal_accuracy")
    monkeypatch.setattr(equal_accuracy, "TESTED", TESTED)

    def looked(records: list[dict[str, Any]], seeds: int = 3) -> dict[str, Any]:
        path, out = tmp_path / "records.jsonl", tmp_path / "equal_accuracy.json"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        monkeypatch.setattr(sys, "argv", ["equal_accuracy.py", str(path), "--seeds", str(seeds), "--out", str(out)])
        try:
            equal_accuracy.main()
        except SystemExit:
            assert not out.exists()
            raise
        return json.loads(out.read_text())

    return looked


def test_the_difference_at_named_accuracies_is_found_and_drawn(plan, look, tmp_path, capsys):
    found = look(simulated(plan, 3.0, stages=("strong",)))
    assert found["seeds"] == 3
    assert found["sentence"] == "CEM protects more than noise"
    assert [one["accuracy"] for one in found["at_named_accuracies"]["best"]] == [0.80, 0.77, 0.74]
    for one in found["at_named_accuracies"]["best"][1:]:
        assert one["verdict"] == "protects more than noise"
        middle, low, high = one["difference"]
        assert low < 2 < high
        assert abs(middle - 2) < 0.6
    assert "3 seeds: CEM protects more than noise" in capsys.readouterr().out
    assert (tmp_path / "equal_accuracy.png").stat().st_size > 10_000


def test_only_the_endpoint_of_the_plan_gets_a_verdict(plan, look):
    found = look(simulated(plan, 1.5))
    beside = found["at_equal_accuracy"]["best"]
    assert {"cem-16", "one-16", "released-16", "adversarial", "nopeek-cem"} < beside.keys()
    told = {one["verdict"] for one in [*beside.values(), *found["at_named_accuracies"]["worst_case"]]}
    assert told == {"secondary: no endpoint of the plan, no verdict"}


@pytest.mark.parametrize(
    ("change", "seeds", "said"),
    [
        (lambda record: record["cell"] != "strong-cem-16-s2", 3, "1 of 24 cells of the endpoint are missing"),
        (lambda record: record["cell"] != "strong-noise-0.8-s0", 3, "strong-noise-0.8-s0"),
        (lambda record: not record["cell"].startswith("strong"), 3, "24 of 24 cells"),
        (lambda record: True, 5, "was made for 3 seeds; expected records for --seeds 5"),
        (lambda record: record.update(seeds_planned=5) is None, 3, "was made for 5 seeds; expected .* --seeds 3"),
    ],
)
def test_nothing_is_said_before_all_seeds_that_were_fixed_are_there(plan, look, capsys, change, seeds, said):
    records = [record for record in simulated(plan, 1.5) if change(record)]
    with pytest.raises(SystemExit, match=said) as refused:
        look(records, seeds)
    assert "\n" not in str(refused.value)
    assert not capsys.readouterr().out


def test_accuracies_that_differ_are_told_one_by_one(gpu):
    sentence = import_module("equal_accuracy").sentence
    more, less = "protects more than noise", "protects less than noise"
    rows = [{"accuracy": a, "verdict": v, "difference": [0.1]} for a, v in ((0.8, more), (0.77, less))]
    assert sentence(rows) == "the accuracies differ: at 80% protects more than noise, at 77% protects less than noise"
    outside = {"accuracy": 0.74, "verdict": "outside a curve", "difference": None}
    assert sentence([rows[0], outside]) == "CEM protects more than noise"
    assert sentence([outside]).startswith("nothing is said")
