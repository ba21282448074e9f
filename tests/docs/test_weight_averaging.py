"""benchmarks/weight_averaging.py: it trains to the weights of the command, and its means are those of the steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from networks import tiny
from splitveil import config, runs
from splitveil.training import trainer

ROOT = Path(__file__).parents[2]
SETTINGS = {"data": "digits", "train_size": 300, "test_size": 60, "defense": ["gaussian:0.1"], "recipe": "fast"}


def test_the_training_is_the_command_s_and_the_means_are_of_its_steps(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import weight_averaging as benchmark

    monkeypatch.setattr(runs.zoo, "build", tiny)
    monkeypatch.setattr(benchmark, "RECORD", tmp_path / "record.json")
    settings = config.parse({**SETTINGS, "epochs": 2, "batch_size": 50}).resolve()
    images = runs.load_images(settings)
    plain = trainer.fit(settings, images, tmp_path / "plain")
    seen: list[torch.Tensor] = []

    class Spy(benchmark.Watching):
        def _step(self, *given):
            losses = super()._step(*given)
            seen.append(next(self.model.parameters()).detach().clone())
            return losses

        def _summary(self):
            (name, *_) = dict(self.model.named_parameters())
            mean = torch.stack(seen[-self.steps :]).mean(0)
            torch.testing.assert_close(self.means["last 1 epochs"][name], mean)
            return super()._summary()

    monkeypatch.setattr(trainer, "Trainer", Spy)
    watched = trainer.fit(settings, images, tmp_path / "watched")
    assert watched["accuracy"] == plain["accuracy"]
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "watched")]
    assert weights[0] == weights[1]
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert len(record["difference"]) == 4
    assert record["validation_accuracy"]["last weights"] == pytest.approx(plain["accuracy_val"], abs=0.1)
