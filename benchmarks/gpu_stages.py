"""The cells of benchmarks/gpu.py, stage by stage, and small ones of the same kinds for its rehearsal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equal_accuracy_plan as plan
from gpu_cell import Cell

NETWORK = {"data": "cifar10", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8}
DIGITS = {"data": "digits", "root": None, "train_size": 100, "test_size": 60, "epochs": 2, "batch_size": 32}
DIGITS |= {"arch": "resnet20_sgm", "cut": 2, "bottleneck": 4}
"""What a rehearsal trains on."""
SMALL = {"epochs": 1, "steps": 2, "iterations": 2, "restarts": 1, "looks": 1, "batch_size": 64, "warm_epochs": 1}
SMALL |= {"start_epochs": 1, "network": "conv_normN1C32", "samples": 2, "size": 8, "width": 8}
SMALL |= {"channels": 8, "start_steps": 2, "tuning": 2}
"""Settings that make any plug-in quick, by the names that plug-ins give them."""
CHECKED_NETWORKS = {"latent": "dense_normN2C64", "confidence": "dense_normN2C64"}
ABLATION = {
    "fast": {},
    "sgd": {"optimizer": "sgd"},
    "a third of muon's rate": {"matrix_lr": 0.1},
    "half of muon's rate": {"matrix_lr": 0.15},
    "twice muon's rate": {"matrix_lr": 0.6},
    "published schedule": {"schedule": "steps"},
    "no nesterov": {"nesterov": False},
    "biases as fast as the rest": {"bias_lr": 1.0},
    "biases 64 times as fast": {"bias_lr": 64.0},
    "no label smoothing": {"label_smoothing": 0.0},
    "the network's dropout": {"network_dropout": True},
    "weights as drawn": {"unit_variance": False},
    "flip by chance": {"alternate_flip": False},
    "rotation 15": {"rotate": 15.0},
    "cutout 10": {"cutout": 10},
    "rate 0.1": {"lr": 0.1},
    "half of SGD's rate": {"lr": 0.1, "matrix_lr": 0.6},
    "rate 0.4": {"lr": 0.4},
    "batch 1024": {"batch_size": 1024},
    "batch 256": {"batch_size": 256},
}
PUBLISHED = {
    "bottleneck": [plan.LOW, "cem:0"],
    "bottleneck-cem": [plan.LOW, "cem:16,loss=released"],
    "ressfl": [plan.LOW, "adversarial:0.3", "cem:0"],
    "ressfl-cem": [plan.LOW, "adversarial:0.3", "cem:16,loss=released"],
}
"""Rows of the published table: its loss of CEM, and every row has the bottleneck."""


def small(kind: str, name: str) -> str:
    """A plug-in with the quick settings that it has."""
    import inspect

    from splitveil.registry import Registry

    known = inspect.signature(Registry(kind).get(name)).parameters
    network = CHECKED_NETWORKS.get(name, "conv_normN1C32")
    chosen = {key: value for key, value in {**SMALL, "network": network}.items() if key in known}
    if name == "patrol":
        chosen = {"epoch": 1}
    if kind == "defenses":
        chosen = {key: value for key, value in chosen.items() if key in ("iterations", "epoch")}
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in chosen.items()) if chosen else name


def trainable(defense: str) -> bool:
    """Whether a training puts ``defense`` on; some are put on a trained model only."""
    from splitveil.config import Spec
    from splitveil.defenses.base import NEVER

    return Spec.model_validate(defense).make("defenses").acts_after != NEVER


def checks(base: dict[str, Any]) -> list[Cell]:
    """Every defense that a training puts on with a small training, every attack with a small run."""
    from splitveil.registry import Registry

    tiny = {**base, "train_size": 500, "test_size": 200, "epochs": 3, "batch_size": 64}
    options: dict[str, Any] = {"stage": "check", "attacked": 5, "tail": False, "check": True}
    found = []
    for name in Registry("defenses").names():
        if trainable(own := small("defenses", name)):
            sizes = {**tiny, "bottleneck": None if name == "bottleneck" else tiny["bottleneck"]}
            stack = [plan.LOW, own]
            found.append(Cell(f"check-{name}", {**sizes, "defense": stack}, attacks=("linear:looks=1",), **options))
    for name in Registry("attacks").names():
        sizes = {**tiny, "defense": ["gaussian:0.1", "dropout:0.2"]}
        found.append(Cell(f"check-attack-{name}", sizes, attacks=(small("attacks", name),), **options))
    return found


def ablation(base: dict[str, Any]) -> list[Cell]:
    """The fast recipe at 8 epochs, and what is changed of it."""
    options: dict[str, Any] = {"stage": "ablation", "protocols": (), "tail": False}
    return [
        Cell(
            f"ablation-{name}-s{seed}",
            {**base, "epochs": 8, "defense": [plan.LOW], "seed": seed, **change},
            **options,
        )
        for seed in range(3)
        for name, change in ABLATION.items()
    ]


def published(base: dict[str, Any]) -> list[Cell]:
    """Four rows of the published table by its recipe at full length; each goes on from its last epoch."""
    return [
        Cell(
            name := f"published-{row}",
            {**base, "recipe": "published", "defense": defense, "seed": 0},
            "published",
            plan.FIRST,
            attacked=plan.ATTACKED,
            run=name,
        )
        for row, defense in PUBLISHED.items()
    ]


def planned(stage: str, base: dict[str, Any], seeds: int) -> list[Cell]:
    """A stage of the trade-off curve, seed by seed.

    Cells of the stages `strong` and `train_time` attack the networks of the first: they go on in its folders.
    """
    attacks = {"strong": plan.FIRST + plan.LAST, "train_time": plan.TRAIN_TIME}.get(stage, plan.FIRST)
    protocols = ("train_time",) if stage == "train_time" else ("inference_time",)
    kept = stage in ("cells", "strong", "train_time")
    return [
        Cell(
            name,
            {**base, **change},
            stage,
            attacks,
            protocols,
            plan.ATTACKED,
            run=name.removeprefix(plan.STAGES[stage]) if kept else "",
            planned=seeds,
        )
        for name, change in plan.cells(stage, seeds).items()
    ]


def stages(seeds: int) -> dict[str, Callable[[dict[str, Any]], list[Cell]]]:
    """What makes the cells of each stage, most wanted first."""
    return {
        "cells": lambda base: planned("cells", base, seeds),
        "strong": lambda base: planned("strong", base, seeds),
        "published": published,
        "explaining": lambda base: planned("explaining", base, seeds),
        "train_time": lambda base: planned("train_time", base, seeds),
        "others": lambda base: planned("others", base, seeds),
        "ablation": ablation,
        "check": checks,
    }


def rehearsed(cells: list[Cell]) -> list[Cell]:
    """The last cell of seed 0 of each stage, and all checks, with tiny sizes."""
    last = {cell.stage: cell for cell in cells if not cell.check and cell.settings.get("seed", 0) == 0}
    found = []
    for cell in [*last.values(), *(cell for cell in cells if cell.check)]:
        # The defense that is a bottleneck itself has none beside it.
        settings = {**cell.settings, **DIGITS, "bottleneck": cell.settings["bottleneck"] and DIGITS["bottleneck"]}
        every = cell.stage in ("cells", "strong", "train_time")  # the other stages make the same attacks again
        attacks = cell.attacks if cell.check else tuple(map(_tiny, cell.attacks if every else cell.attacks[:1]))
        found.append(dataclasses.replace(cell, settings=settings, attacks=attacks, attacked=5))
    return found


def _tiny(attack: str) -> str:
    """The same attack, in no time."""
    return small("attacks", attack.partition(":")[0]) + (",start=decoder" if "start=decoder" in attack else "")
