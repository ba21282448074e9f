"""A training of seconds: few digits, a network of two layers, and ways to look at it and to stop it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from splitveil import config
from splitveil.data import load
from splitveil.training import trainer

SIZES: dict[str, Any] = {"train_size": 60, "test_size": 20}
IMAGES = load("digits", **SIZES)


def settings(**values: Any) -> config.TrainConfig:
    base = {
        "data": "digits",
        "arch": "resnet20_sgm",
        "cut": 2,
        "bottleneck": 4,
        "precision": "32-true",
        **SIZES,
    }
    return config.parse({**base, "epochs": 3, "batch_size": 16, "defense": ("gaussian:0.1", "cem:16"), **values})


def fit(out: Path, progress: trainer.Progress | None = None, resume: bool = False, **values: Any):
    return trainer.fit(settings(**values), IMAGES, out, progress=progress, resume=resume)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in ("seconds", "images_per_second")}


class Killed(Exception):
    pass


def killer(epoch: int, step: int):
    def progress(now: int, done: int, _: dict[str, Any]) -> None:
        if now == epoch and done >= step:
            raise Killed

    return progress
