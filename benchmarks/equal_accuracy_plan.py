"""The plan of benchmarks/equal_accuracy.py and benchmarks/gpu.py, written down before the first run.

Question: at equal accuracy, does CEM leave the attacker more error than noise alone does, against the strongest attack?

- CIFAR-10, 50,000 training images (45,000 after the 5,000 that validate), vgg11_bn_sgm, cut 4, bottleneck 8, recipe
  fast, 4 epochs; the last epoch is served, no epoch is chosen.
- Seeds: 5 on a GPU, 3 without one. The number is given to benchmarks/gpu.py before the first cell, stands in every
  record, and cannot be changed afterwards: no seed is added and none is left out.
- Accuracy of a cell: of a tail retrained on the frozen wire, the same short recipe for all, on all 10,000 test images;
  the accuracy as trained stands beside it.
- Attacker: protocol inference_time, 9,000 images of its own, 1,000 attacked, one wire per image. Five attacks:
  `linear`, `decoder`, `residual`, `refine` and `diffusion` from the decoder's answer (`FIRST`, then `LAST`, which takes
  longest). The number that counts is the best attacker that can exist (chosen on the attacker's own images) of all
  five; the worst case per image stands beside it.
- Endpoint: log MSE with CEM minus log MSE of noise alone, both read at 80, 77 and 74 % accuracy (`ACCURACIES`) from
  their curves by monotone interpolation. The curve of CEM has λ = 0 (the noise of 0.025 alone), 4, 16 and 64; that of
  noise has σ = 0.025, 0.1, 0.2, 0.4 and 0.8. Hierarchical bootstrap over seeds and images. Where a curve does not reach
  an accuracy, nothing is said of it. The accuracies were named when one network of an earlier version of the recipe had
  82.2 % with noise of 0.025 and one had 79.3 % with λ = 4, both as trained, after 12 epochs. Changed since, before any
  cell was made: 4 epochs instead of 12, as the recipe now trains by Muon. One network of each was known then, as
  trained: 80.8 % with noise of 0.025, 70.8 % with λ = 16.
- The difference that counts is 10 % of MSE: CEM "protects more" where the whole interval lies above log 1.1, "less"
  where it lies below -log 1.1, "as much" where it lies within ± log 1.1. The sentence as a whole says what all
  accuracies that are reached say alike; where they differ, it says so.
- One look: nothing is computed before all cells of both curves are there with all seeds.
- Secondary, without a verdict: each λ at its own accuracy; the points of `explaining` and `others` by the attacks of
  `FIRST` alone; the attacker `train_time`, who has the defender's 45,000 images, on the points of both curves.
"""

from __future__ import annotations

import math
from typing import Any

SEED_COUNTS = (3, 5)
SIGMAS = (0.025, 0.1, 0.2, 0.4, 0.8)
LAMBDAS = (4, 16, 64)
ACCURACIES = (0.80, 0.77, 0.74)
"""At which CEM and noise alone are compared."""
DIFFERENCE = math.log(1.1)
"""Difference in log MSE that counts."""
ATTACKED = 1000
EPOCHS = 4
LOW = "gaussian:0.025"
"""The noise of every point with CEM."""

DECODER = "network=res_normN8C64,lr=0.001,weight_decay=0.0001,batch_size=256"
"""Of three attacks, which share one training of it: `diffusion` always begins with such a decoder."""
FIRST = (
    "linear:looks=4",
    f"decoder:epochs=50,{DECODER},steps=2000,patience=250",
    "residual:epochs=10,channels=96,lr=0.02,batch_size=64,shift=0.0625,flip=null",
    f"refine:steps=100,weight=null,start=decoder,epochs=50,{DECODER},draws=4,tuning=16,start_steps=2000,patience=250",
)
LAST = (
    "diffusion:steps=60,samples=4,guidance=null,start=decoder,level=500,epochs=30,width=32,batch_size=64,"
    "start_epochs=50,draws=2,tuning=16,start_steps=2000,patience=250",
)
TRAIN_TIME = (FIRST[0], FIRST[1].replace("steps=2000", "steps=6000"), FIRST[2])
"""Of an attacker with five times the images: the attacks that learn from them."""
STAGES = {"cells": "", "strong": "strong-", "train_time": "train-time-", "explaining": "", "others": ""}
"""What the names of a stage's cells begin with."""


def decisive() -> dict[str, list[str]]:
    """Defenses by the name of a point: those that answer the question, in the order of need."""
    noise = {f"noise-{sigma}": [f"gaussian:{sigma}", "cem:0"] for sigma in SIGMAS}  # cem:0 measures and pulls nothing
    return {**noise, **{f"cem-{weight}": [LOW, f"cem:{weight}"] for weight in LAMBDAS}}


def explaining() -> dict[str, list[str]]:
    """What the clusters add to one Gaussian, and the network without a defense."""
    return {**{f"one-{weight}": [LOW, f"cem:{weight},clusters=1,per_class=false"] for weight in LAMBDAS}, "none": []}


def others() -> dict[str, list[str]]:
    """The released loss, and two defenses with and without CEM."""
    return {
        "released-16": [LOW, "cem:16,loss=released"],
        "adversarial": [LOW, "adversarial", "cem:0"],
        "adversarial-cem": [LOW, "adversarial", "cem:16"],
        "nopeek": [LOW, "nopeek", "cem:0"],
        "nopeek-cem": [LOW, "nopeek", "cem:16"],
    }


def points() -> dict[str, list[str]]:
    """All of them."""
    return {**decisive(), **explaining(), **others()}


def cells(stage: str, seeds: int) -> dict[str, dict[str, Any]]:
    """Settings of each cell of a stage by its name, seed by seed."""
    family = {"explaining": explaining, "others": others}.get(stage, decisive)()
    return {
        f"{STAGES[stage]}{point}-s{seed}": {"defense": defense, "seed": seed, "epochs": EPOCHS}
        for seed in range(seeds)
        for point, defense in family.items()
    }
