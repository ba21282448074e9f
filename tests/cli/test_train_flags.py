"""`splitveil train` says where the network that it made has learned nothing, and whether it took too few steps."""

from __future__ import annotations

from typing import Any

import pytest

from splitveil.cli import main
from splitveil.training import trainer

SUMMARY: dict[str, Any] = {
    "images": {"train": 320},
    "epoch": 1,
    "leakage_nats": None,
    "wire": {"shape": [2, 4, 4], "bytes": 128},
    "parameters": {"encoder": 10},
    "seconds": 1.0,
}


def _trained(accuracy: dict[str, Any] | None, monkeypatch, capsys, tmp_path, *more: str) -> str:
    monkeypatch.setattr(trainer, "fit", lambda *_, **__: {**SUMMARY, "accuracy": accuracy})
    settings = ["--data", "digits", "--recipe", "fast", "--epochs", "2", "--arch", "resnet20_sgm", "--cut", "5"]
    main(["train", *settings, *more, "--out", str(tmp_path / "run")])
    return " ".join(capsys.readouterr().err.split())


def test_a_network_at_chance_and_its_few_steps_are_flagged(monkeypatch, capsys, tmp_path):
    said = _trained({"mean": 0.1, "ci95": [0.08, 0.12]}, monkeypatch, capsys, tmp_path)
    assert "flag the network is not shown to be better than chance" in said
    assert "flag the training was short: steps: 2, epochs: 2, each of 320 images, batch size: 512" in said
    assert "a smaller --batch-size or more --epochs" in said


def test_a_long_training_at_chance_is_not_called_short(monkeypatch, capsys, tmp_path):
    said = _trained({"mean": 0.1, "ci95": [0.08, 0.12]}, monkeypatch, capsys, tmp_path, "--batch-size", "2")
    assert "better than chance" in said
    assert "steps" not in said


@pytest.mark.parametrize("accuracy", [{"mean": 0.6, "ci95": [0.5, 0.7]}, None])
def test_a_network_that_learned_is_not_flagged(accuracy, monkeypatch, capsys, tmp_path):
    assert "flag" not in _trained(accuracy, monkeypatch, capsys, tmp_path)
