"""benchmarks/suites_v2.py in small: what it measures, and that the run stays as it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from splitveil.evaluation import suites
from splitveil.runs import Run

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
DECODER = "network=conv_normN0C8,lr=0.003,weight_decay=0.0001,batch_size=32,epochs=1"
OPEN = f"{DECODER},patience=8"
GAN = "gan:network=conv_normN0C8,critic_steps=CRITIC,width=4,batch_size=32,steps=10,warm_epochs=1,warm_steps=24"


@pytest.fixture
def run(evaluated_folder):
    return Run.open(evaluated_folder)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import suites_v2

    first = suites.specs("linear:looks=4", f"decoder:{DECODER}")
    refine = f"refine:steps=3,draws=1,tuning=2,start_steps=24,{OPEN}"
    second = suites.specs("linear:looks=4", f"decoder:{OPEN},steps=24", refine)
    monkeypatch.setitem(suites.SUITES, "quick-v1", first)
    monkeypatch.setitem(suites.SUITES, "quick-v2", second)
    decoder = "decoder:network=conv_normN0C8,epochs=1,batch_size=32,steps=24,patience=8"
    monkeypatch.setitem(suites_v2.SCALES, "quick", (decoder, f"{GAN},patience=8"))
    return suites_v2


def test_it_compares_the_suites_and_what_gan_adds(benchmark, run, tmp_path, monkeypatch, capsys):
    before, out = sorted(run.path.rglob("*")), tmp_path / "record.json"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "argv", ["suites_v2.py", str(run.path), "--device", "cpu", "--out", str(out)])
    benchmark.main()
    assert sorted(run.path.rglob("*")) == before
    found = json.loads(out.read_text())
    pair = found["suites"]
    assert pair["seconds_ratio"] == pytest.approx(pair["quick-v2"]["seconds"] / pair["quick-v1"]["seconds"])
    change = pair["best of quick-v2 against decoder of quick-v1"]
    assert change["from"] == pytest.approx(pair["quick-v1"]["attacks"]["decoder"]["mse"]["mean"], rel=1e-5)
    assert change["to"] == pytest.approx(pair["quick-v2"]["best_attacker"]["mse"]["mean"], rel=1e-5)
    low, high = change["ci95"]
    assert low <= change["change_percent"] <= high
    assert found["gan"]["trainings_of_the_decoder"] == 1
    assert list(found["gan"]["attacks"]) == ["decoder", "gan 1", "gan 10"]
    assert "refine against its decoder: " in capsys.readouterr().out


def test_the_real_settings_share_one_decoder(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import suites_v2

    from splitveil.config import Spec

    for decoder, gan in suites_v2.SCALES.values():
        made = Spec.model_validate(decoder).resolve("attacks").make("attacks")
        for steps in suites_v2.CRITIC_STEPS:
            attack = Spec.model_validate(gan.replace("CRITIC", str(steps))).resolve("attacks").make("attacks")
            assert vars(attack.warm) == vars(made)
    standard = Spec.model_validate(suites_v2.SCALES["standard"][0])
    assert standard == suites.labels(suites.SUITES["standard-v2"])["decoder"]


def test_a_gpu_that_is_not_there(benchmark, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["suites_v2.py", str(run.path), "--device", "cuda"])
    with pytest.raises(SystemExit, match="--device cuda: torch sees no GPU here"):
        benchmark.main()
