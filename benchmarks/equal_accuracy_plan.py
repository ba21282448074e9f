"""The plan of benchmarks/equal_accuracy.py and benchmarks/gpu.py, written down before the first run.

Question: at equal accuracy, does CEM leave the attacker more error than noise alone does?

- CIFAR-10, 50,000 training images (45,000 after the 5,000 that validate), vgg11_bn_sgm, cut 4, bottleneck 8, recipe
  fast (12 epochs); the last epoch is served, no epoch is chosen.
- Seeds: 3 (5 where a GPU is at hand), named in `SEEDS`; no seed is added afterwards.
- Accuracy of a cell: of a tail retrained on the frozen wire, the same short recipe for all, on all 10,000 test images;
  the accuracy as trained stands beside it.
- Attacker: protocol inference_time, 9,000 images of its own, 1,000 attacked, one wire per image. The number that counts
  is the best attacker that can exist (chosen on the attacker's own images); the worst case per image stands beside it.
  `train_time`, with the defender's 45,000 images, afterwards.
- Endpoint: log MSE with CEM minus log MSE of noise alone at the same accuracy, by monotone interpolation of the noise
  curve, for each of λ = 4, 16, 64; hierarchical bootstrap over seeds and images; outside the noise curve nothing is
  said. The difference that counts is 10 % of MSE: CEM "protects more" where the whole interval lies above
  log 1.1, "as much" where it lies within ± log 1.1.
- One look: the endpoint is computed when all cells of the noise curve and of a λ are there with all seeds.
"""

from __future__ import annotations

import math
from typing import Any

SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4)
"""Of a GPU."""
SIGMAS = (0.025, 0.1, 0.2, 0.4, 0.8)
LAMBDAS = (4, 16, 64)
DIFFERENCE = math.log(1.1)
"""Difference in log MSE that counts."""
ATTACKED = 1000


EPOCHS = 12
LOW = "gaussian:0.025"
"""The noise of every point with CEM."""


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


def cells() -> dict[str, dict[str, Any]]:
    """Settings of each cell by its name: what decides, what explains it, more seeds of both, and the others."""
    ordered = [(seed, family) for family in (decisive(), explaining()) for seed in SEEDS]
    ordered += [(seed, family) for family in (decisive(), explaining()) for seed in MORE_SEEDS]
    ordered += [(seed, others()) for seed in SEEDS + MORE_SEEDS]
    return {
        f"{name}-s{seed}": {"defense": defense, "seed": seed, "epochs": EPOCHS}
        for seed, family in ordered
        for name, defense in family.items()
    }
