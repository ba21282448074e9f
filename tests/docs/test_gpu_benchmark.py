"""benchmarks/gpu.py, rehearsed on the CPU: what a borrowed GPU runs must not fail there for the first time."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_rehearsal_runs_every_stage(tmp_path):
    command = [sys.executable, BENCHMARKS / "gpu.py", "--rehearse", "--out", tmp_path / "out", "--workers", "1"]
    command += ["--scratch", tmp_path / "scratch", "--only", "attack-linear"]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
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
            hits = rng.random(10_000) < 0.9 - 0.2 * place
            errors = 0.01 * np.exp(2 * place) * rng.gamma(4, 0.25, 1000) * (gain if kind == "cem" else 1)
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
