"""A run of seconds with enough test images to attack."""

from __future__ import annotations

from pathlib import Path

from splitveil import config
from splitveil.data import load
from splitveil.training import trainer

IMAGES = load("digits", train_size=60, test_size=120)


def train(path: Path) -> Path:
    values = {"data": "digits", "train_size": 60, "test_size": 120, "epochs": 1, "precision": "32-true", "seed": 3}
    trainer.fit(config.parse({**values, "defense": ["gaussian:0.05"]}), IMAGES, path)
    return path
