"""The leakage that a training logs beside the bounds on images that the network never saw, by the number of images.

    python benchmarks/held_out_leakage.py [--root data/cifar10] [--out runs/held_out_leakage] [--images 500 2000 5000]
    python benchmarks/held_out_leakage.py --images all

Plan, fixed before the first run: CIFAR-10, vgg11_bn_sgm cut after block 4 with a bottleneck of 8 channels (a wire of
512 values), gaussian:0.025 and cem:0, which trains nothing and logs leakage_nats; the fast recipe, shortened to some
200 steps whatever the number of images (a tenth of which is held out for validation). Seeds 0 and 1; of all 50,000
images seed 0 only, as two epochs take minutes. Of each network, in nats per image:

logged            leakage_nats of the last epoch: Theorem 2 with diagonal covariances, on the features that the training
                  computed on its way, of augmented images and with weights that still moved
training images   the same estimator on the training images (at most 5,000), plain, after the training
other images      the same estimator on as many test images
mixture, channel  the bounds, on all test images: fitted on half, chosen on a tenth, scored on the rest

What lies between "logged" and "training images" comes of when and on what the log measures, between these and "other
images" of what the network knows of its own images, between "other images" and "mixture" of the density. Trainings that
are finished and networks that are measured are not done again. Writes benchmarks/held_out_leakage.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cells
import torch
from torch import Tensor

import splitveil as sv
from splitveil import config, runs
from splitveil.data import Split, protocol, to_float
from splitveil.data.protocol import divide
from splitveil.defenses import _mixture
from splitveil.defenses.cem import CEM
from splitveil.model import SplitModel
from splitveil.storage.files import write_json
from splitveil.training.trainer import fit

SIGMA, CLUSTERS = 0.025, 5
SETTINGS: dict[str, Any] = {
    **cells.NETWORK,
    "recipe": "fast",
    "optimizer": "sgd",
    "defense": [f"gaussian:{SIGMA}", "cem:0"],
}
SIZES: dict[str, dict[str, Any]] = {
    "500": {"train_size": 500, "epochs": 50, "batch_size": 128, "lr": 0.05, "warmup_epochs": 12.0},
    "2000": {"train_size": 2000, "epochs": 14, "batch_size": 128, "lr": 0.05, "warmup_epochs": 3.0},
    "5000": {"train_size": 5000, "epochs": 6, "batch_size": 128, "lr": 0.05, "warmup_epochs": 1.5},
    "all": {"epochs": 2, "warmup_epochs": 0.5},
}
"""What each number of images changes: some 200 steps each, at the fast recipe's rate per image."""
SEEDS = {"500": (0, 1), "2000": (0, 1), "5000": (0, 1), "all": (0,)}
MOST = 5000
"""Images on which the logged estimator is computed again."""
BOUNDS = ("mixture", "channel")
BATCH = 500


@torch.no_grad()
def logged_estimator(model: SplitModel, images: Split, classes: int, seed: int) -> float:
    """What `cem` logs, on given images."""
    parts = [model.features(to_float(x)).flatten(1) for x in images.images.split(BATCH)]
    rng = torch.Generator().manual_seed(seed)
    z: Tensor = torch.cat(parts)
    return float(_mixture.held_out_nats(z, images.labels, classes, CLUSTERS, SIGMA**2, rng))


def measure(run: runs.Run, images: Any) -> dict[str, Any]:
    """All figures of one trained network."""
    settings, summary = run.settings, json.loads((run.path / "summary.json").read_text())
    model, classes = run.model(images).eval(), len(images.classes)
    train = protocol(settings.protocol, images, seed=settings.seed).defender_train
    rng = torch.Generator().manual_seed(settings.seed)
    size = min(MOST, len(train), len(images.test))
    own, other = (divide(part, size, rng)[0] if len(part) > size else part for part in (train, images.test))
    found: dict[str, Any] = {
        "trained_on": len(train),
        "accuracy": summary["accuracy"],
        "logged": summary["leakage_nats"],
        "again_on": size,
        "training images": logged_estimator(model, own, classes, settings.seed),
        "other images": logged_estimator(model, other, classes, settings.seed),
    }
    for name in BOUNDS:
        found[name] = sv.bound(model, name, images.test, seed=settings.seed)[0].as_dict()
    return found


def cell(size: str, seed: int, root: Path | None, out: Path) -> dict[str, Any]:
    """One network, trained and measured where that is not done yet."""
    folder = out / f"{size}-s{seed}"
    file = folder / "held_out.json"
    if not file.is_file():
        settings = config.parse({**SETTINGS, **SIZES[size], "seed": seed, "root": root}).resolve()
        images = runs.load_images(settings)
        fit(settings, images, folder, resume=True)
        write_json(file, {"images": size, "seed": seed, **measure(runs.Run.open(folder), images)})
    found = json.loads(file.read_text())
    bounds = ", ".join(f"{name} {found[name]['value']:.1f}" for name in BOUNDS)
    print(
        f"{size} images, seed {seed}: logged {found['logged']:.1f}, training images {found['training images']:.1f}, "
        f"other images {found['other images']:.1f}, {bounds} nats",
        flush=True,
    )
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """The table of the docs: one line for each network, nats per image."""
    names = ("logged", "training images", "other images")
    lines = [f"| images | seed | {' | '.join((*names, *BOUNDS))} |", "|---" * (4 + len(BOUNDS) + 1) + "|"]
    for row in rows:
        figures = [f"{row[name]:,.0f}" for name in names]
        figures += [
            f"{row[name]['value']:,.0f} [{row[name]['interval']['ci95'][0]:,.0f}, "
            f"{row[name]['interval']['ci95'][1]:,.0f}]"
            for name in BOUNDS
        ]
        size = row["images"] if row["images"] == "all" else f"{int(row['images']):,}"
        lines.append(f"| {size} | {row['seed']} | {' | '.join(figures)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of the images; data/cifar10 by default")
    parser.add_argument("--out", type=Path, default=Path("runs/held_out_leakage"), help="folder of the runs")
    parser.add_argument("--images", nargs="+", choices=SIZES, default=["500", "2000", "5000"])
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parser.add_argument("--record", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    root = (args.root or Path("data/cifar10")).absolute() if SETTINGS["data"] == "cifar10" else None
    before = json.loads(args.record.read_text())["cells"] if args.record.is_file() else []
    kept = {(row["images"], row["seed"]): row for row in before}

    def place(key: tuple[str, int]) -> tuple[int, int]:
        return list(SIZES).index(key[0]), key[1]

    for size in args.images:
        for seed in SEEDS[size]:
            if args.seeds is None or seed in args.seeds:
                kept[size, seed] = cell(size, seed, root, args.out)
                record = {
                    "command": "python benchmarks/held_out_leakage.py --images "
                    + " ".join(dict.fromkeys(k for k, _ in kept)),
                    "settings": SETTINGS,
                    "sizes": SIZES,
                    "estimator": f"{CEM.__name__} with {CLUSTERS} clusters per class at most",
                    "machine": {**runs.environment(), "threads": torch.get_num_threads()},
                    "cells": [kept[key] for key in sorted(kept, key=place)],
                }
                write_json(args.record, record)
    print(table([kept[key] for key in sorted(kept, key=place)]))


if __name__ == "__main__":
    main()
