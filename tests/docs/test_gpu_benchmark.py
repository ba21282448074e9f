"""benchmarks/gpu.py, rehearsed on the CPU: what a borrowed GPU runs must not fail there for the first time."""

from __future__ import annotations

import json
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TESTED = 5000
"""Images whose classes are told; CIFAR-10 has 10,000."""


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


def test_the_rehearsal_runs_every_stage(tmp_path, small, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu = import_module("gpu")
    monkeypatch.setattr(gpu, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    given = ["--rehearse", "--out", tmp_path / "out", "--workers", 1, "--scratch", tmp_path / "scratch"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *map(str, given), "--only", "attack-linear"])
    gpu.main()
    first = capsys.readouterr().out
    records = [json.loads(line) for line in (tmp_path / "out" / "records.jsonl").read_text().splitlines()]
    assert [record["cell"] for record in records] == ["check-attack-linear", "ablation-fast-s0", "cem-16-s0"], first
    assert not any("failed" in record for record in records)
    cell = records[-1]
    assert len(cell["inference_time"]["worst_case_mse"]) == 5
    assert 0 <= cell["retrained_accuracy"]["mean"] <= 1
    assert json.loads((tmp_path / "out" / "profile.json").read_text())["steps"][0]["milliseconds"] > 0


def test_a_rerun_leaves_out_what_is_done_and_runs_again_what_failed(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    gpu = import_module("gpu")

    path = tmp_path / "records.jsonl"
    path.write_text('{"cell": "a"}\n{"cell": "b", "failed": "out of memory"}\n')
    assert gpu.read([path, tmp_path / "none.jsonl"]) == {"a"}


def test_the_cells_that_answer_the_question_come_first(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    equal_accuracy_plan = import_module("equal_accuracy_plan")

    from splitveil import config

    names, decisive = (
        list(equal_accuracy_plan.cells()),
        len(equal_accuracy_plan.decisive()) * len(equal_accuracy_plan.SEEDS),
    )
    assert not any(name.startswith(("adversarial", "nopeek")) for name in names[:decisive])
    for settings in equal_accuracy_plan.cells().values():
        config.parse({"data": "cifar10", "recipe": "fast", **settings}).resolve()


def simulated(gain: float) -> list[dict[str, object]]:
    """Records of all decisive cells, where CEM multiplies the error of noise at equal accuracy by ``gain``."""
    equal_accuracy_plan = import_module("equal_accuracy_plan")
    packed = import_module("gpu_cell").packed

    rng, records = np.random.default_rng(0), []
    places = dict(zip(equal_accuracy_plan.SIGMAS, np.linspace(0.1, 1, 5), strict=True))
    for seed in equal_accuracy_plan.SEEDS:
        for name in equal_accuracy_plan.decisive() | equal_accuracy_plan.explaining():
            kind, _, strength = name.partition("-")
            place = places[float(strength)] if kind == "noise" else 0.0 if kind == "none" else 0.5
            hits = rng.random(TESTED) < 0.9 - 0.2 * place
            errors = 0.01 * np.exp(2 * place) * rng.gamma(4, 0.25, 500) * (gain if kind == "cem" else 1)
            attacks = {"decoder": {"mse": {"mean": errors.mean()}}}
            attacked = {"best_mse": errors.tolist(), "worst_case_mse": errors.tolist(), "attacks": attacks}
            accuracy = {"mean": hits.mean()}
            record = {"cell": f"{name}-s{seed}", "accuracy": accuracy, "retrained_accuracy": accuracy, "seed": seed}
            record |= {"retrained_hits": packed(hits.tolist()), "leakage_nats": 1.0, "inference_time": attacked}
            records.append(record)
    return records


def test_the_difference_at_equal_accuracy_is_found_and_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(BENCHMARKS)
    equal_accuracy = import_module("equal_accuracy")
    monkeypatch.setattr(equal_accuracy, "TESTED", TESTED)

    path = tmp_path / "records.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in simulated(1.5)))
    monkeypatch.setattr(sys, "argv", ["equal_accuracy.py", str(path), "--out", str(tmp_path / "equal_accuracy.json")])
    equal_accuracy.main()
    assert "cem-16 (3 seeds)" in capsys.readouterr().out
    found = json.loads((tmp_path / "equal_accuracy.json").read_text())["at_equal_accuracy"]["best"]
    assert found["cem-16"]["verdict"] == "protects more than noise"
    middle, low, high = found["cem-16"]["difference"]
    assert low < 0.5 < high
    assert abs(middle - 0.5) < 0.2
    assert found["one-16"]["difference"][1] < 0 < found["one-16"]["difference"][2]
    assert (tmp_path / "equal_accuracy.png").stat().st_size > 10_000
