"""benchmarks/gpu.py, rehearsed on the CPU: what a borrowed GPU runs must not fail there for the first time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


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
    import gpu

    path = tmp_path / "records.jsonl"
    path.write_text('{"cell": "a"}\n{"cell": "b", "failed": "out of memory"}\n')
    assert gpu.read([path, tmp_path / "none.jsonl"]) == {"a"}


def test_the_cells_that_answer_the_question_come_first(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import tradeoff_plan

    from splitveil import config

    names, decisive = list(tradeoff_plan.cells()), len(tradeoff_plan.decisive()) * len(tradeoff_plan.SEEDS)
    assert not any(name.startswith(("adversarial", "nopeek")) for name in names[:decisive])
    for settings in tradeoff_plan.cells().values():
        config.parse({"data": "cifar10", "recipe": "fast", **settings}).resolve()
