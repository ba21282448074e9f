"""What else was tried of the fast recipe: other rates, dropout, hidden squares; one training each.

    python benchmarks/recipe_trials.py --root data/cifar10 --out runs/trials [--epochs 8]

No plan: each trial was chosen after those before it, so that they can suggest something, but decide nothing. All are of
seed 0, trained on 45,000 images of CIFAR-10 (VGG-11, cut 4, bottleneck 8, gaussian:0.025), and compared on the 5,000
validation images, with one noise each, the same for all. Each row also has the accuracy on 5,000 of the training images
as they are, which says how far a network has learned them by heart. Where the recipe as it is was trained for as many
epochs, the difference to it has a 95 % interval over the images, which says nothing of other seeds. The test images
choose nothing. A trial that has been trained stays as it is, and one that was stopped goes on. Writes
benchmarks/recipe_trials.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splitveil import config, runs
from splitveil.data import protocol
from splitveil.data.protocol import some
from splitveil.randomness import stream
from splitveil.recipe import VALIDATE
from splitveil.statistics.intervals import binomial_ci, paired_difference
from splitveil.storage.files import write_json
from splitveil.training import trainer

SETTINGS = {"data": "cifar10", "cut": 4, "bottleneck": 8, "defense": ["gaussian:0.025"], "recipe": "fast"}
AS_IT_IS = {"lr": 0.2, "matrix_lr": 0.3, "network_dropout": False, "cutout": 0}
"""What the recipe has where a trial says nothing, at the time of the trials."""
SLOWER = {"lr": 0.1, "matrix_lr": 0.6}
"""Half of the rates of SGD, and Muon's as it is."""
TRIALS: list[dict[str, Any]] = [
    {"epochs": 8},
    {"epochs": 8, "matrix_lr": 0.1},
    {"epochs": 8, "matrix_lr": 0.05},
    {"epochs": 8, **SLOWER},
    {"epochs": 8, "lr": 0.05, "matrix_lr": 0.4},
    {"epochs": 16},
    {"epochs": 16, **SLOWER},
    {"epochs": 16, **SLOWER, "network_dropout": True},
    {"epochs": 16, **SLOWER, "cutout": 10},
    {"epochs": 30, **SLOWER, "cutout": 10},
]
SOME = 5000
RECORD = Path(__file__).with_suffix(".json")


def name_of(trial: dict[str, Any]) -> str:
    """Return the name of a trial: what it changes.

    >>> name_of({"epochs": 8, "lr": 0.1})
    'epochs=8,lr=0.1'
    """
    return ",".join(f"{key}={value}" for key, value in trial.items())


def made(trial: dict[str, Any], root: Path, out: Path) -> tuple[dict[str, Any], np.ndarray]:
    """Train a trial, unless it is there, and return its record and which validation images it classifies right.

    Args:
        trial: settings that it changes.
        root: folder of the images.
        out: folder of all trials.
    """
    settings = config.parse({**SETTINGS, **AS_IT_IS, **trial, "root": root.absolute()}).resolve()
    images = runs.load_images(settings)
    summary = trainer.fit(settings, images, out / name_of(trial), resume=True)
    model = runs.Run.open(out / name_of(trial)).model(images).eval()
    parts, rng = protocol(settings.protocol, images, seed=settings.seed), stream("cpu", settings.seed, VALIDATE, 0)
    hits = trainer.correct(model, parts.utility_val, rng).numpy()
    learned_from = some(parts.defender_train, SOME, torch.Generator().manual_seed(0))  # they are sorted by class
    learned = trainer.correct(model, learned_from, rng).numpy()
    accuracy = {
        "validation_accuracy": binomial_ci(int(hits.sum()), len(hits)).as_dict(),
        "training_accuracy": binomial_ci(int(learned.sum()), len(learned)).as_dict(),
    }
    kept = {name: summary[name] for name in ("seconds", "images", "precision", "environment")}
    return {"trial": name_of(trial), **accuracy, **kept}, hits


def main() -> None:
    """Train, compare and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/trials"))
    parser.add_argument("--epochs", type=int, help="only trials of so many epochs; the other rows of the record stay")
    given = parser.parse_args()
    before = json.loads(RECORD.read_text("utf-8"))["trials"] if RECORD.is_file() else []
    records, hits = {record["trial"]: record for record in before}, dict[str, np.ndarray]()
    for trial in TRIALS:
        if given.epochs not in (None, trial["epochs"]):
            continue
        record, hits[name_of(trial)] = made(trial, given.root, given.out)
        usual = hits.get(name_of({"epochs": trial["epochs"]}))
        if usual is not None and "," in name_of(trial):
            record["difference"] = paired_difference(hits[name_of(trial)].astype(float), usual.astype(float)).as_dict()
        records[record["trial"]] = record
        trials = [records[name] for name in map(name_of, TRIALS) if name in records]
        write_json(RECORD, {"command": "python benchmarks/recipe_trials.py --root data/cifar10", "trials": trials})
        found = [100 * record[f"{kind}_accuracy"]["mean"] for kind in ("training", "validation")]
        said = "{}: training {:.1f} %, validation {:.1f} %".format(record["trial"], *found)
        print(said, record.get("difference", ""), flush=True)


if __name__ == "__main__":
    main()
