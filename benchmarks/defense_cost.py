"""Cost of a training step with each defense, as a ratio to Gaussian noise alone, on random 32×32 images.

    python benchmarks/defense_cost.py [--out FILE.json] [--rounds 15] [--threads N] [--only PATTERN]

The defenses take turns, one step each per round, so that a slow moment of the machine meets all of them; the
ratio is that of the medians. Prints a table and writes the medians with the machine they were measured on.
"""

from __future__ import annotations

import argparse
import fnmatch
import math
import statistics
import time
from pathlib import Path

import torch

from splitveil import config
from splitveil.data import ImageSet, Split
from splitveil.defenses._model import wire_shape
from splitveil.defenses.base import Features
from splitveil.runs import environment
from splitveil.storage.files import write_json
from splitveil.training.fabric import fabric_of
from splitveil.training.trainer import Trainer

BASE = "gaussian:0.025"
DEFENSES = (
    "cem:16",
    "adversarial:0.3",
    "adversarial:weight=0.3,share=1",
    "adversarial_noise:0.1",
    "nopeek:0.5",
    "hsic:0.05",
    "vib:0.001",
    "dropout:0.2",
    "topk:0.2",
    "laplace:0.02",
    "local_dp:10",
    "shredder:1",
    "cloak:1",
    "pca:64",
    "sparse_coding:0.01",
    "sparse_coding:form=dense",
    "patrol:1",
)
SETTINGS = {"data": "cifar10", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8, "epochs": 2}
CLASSES, WARM_UP = 10, 2


def random_images(count: int) -> ImageSet:
    """Noise with labels: what is timed does not depend on what the images show."""
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8)
    split = Split(pixels, torch.arange(count) % CLASSES)
    names = [str(n) for n in range(CLASSES)]
    return ImageSet("random", split, split, names, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 32)


def trainer(defenses: list[str], batch: int) -> Trainer:
    """A training that is ready to step; what refits itself has been fitted once."""
    settings = config.parse({**SETTINGS, "batch_size": batch, "defense": defenses}).resolve()
    fabric = fabric_of(settings)
    made = Trainer(settings, random_images(4 * batch), Path("unused"), fabric)
    made.forward.train()
    if made.stack.wants_features:
        rng = torch.Generator(fabric.device).manual_seed(0)
        z = torch.rand(1000, math.prod(wire_shape(made.model, "this benchmark")), generator=rng, device=fabric.device)
        made.stack.refit(0, Features(z, torch.arange(1000, device=fabric.device) % CLASSES, CLASSES, rng))
    return made


def seconds(made: Trainer, batch: int, number: int) -> float:
    """Duration of one step of the training loop."""
    device = made.fabric.device
    index = torch.arange(batch, device=device)
    rng = torch.Generator(device).manual_seed(number)
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    made._step(index, rng, 0.5, None)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch chooses")
    parser.add_argument("--only", default="*", help="defenses to measure, with * and ?")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    names = [BASE, *(name for name in DEFENSES if fnmatch.fnmatch(name, args.only))]
    made = {name: trainer([BASE] if name == BASE else [BASE, name], args.batch) for name in names}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for number in range(WARM_UP + args.rounds):
        for name in names:
            duration = seconds(made[name], args.batch, number)
            if number >= WARM_UP:
                taken[name].append(duration)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    rows = {name: {"seconds": value, "ratio": value / medians[BASE]} for name, value in medians.items()}
    for name, row in rows.items():
        print(f"{name:32} {1000 * row['seconds']:8.1f} ms  {row['ratio']:.3f}")
    write_json(args.out, {"steps": rows, "rounds": args.rounds, "batch": args.batch, "environment": environment()})


if __name__ == "__main__":
    main()
