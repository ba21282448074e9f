"""Adversarial training and water-filled noise against an attacker with five times as many images.

    python benchmarks/larger_attacker.py [--runs runs/full_front] [--root data/cifar10] [--seeds 10 12] [--jobs 1]

The plan, written before the first attack, and after the result that it is about: in `full_front.py` the encoder of
`adversarial:0.3` left the attack `residual` as much error as water-filled noise of 0.02 nats, at more accuracy.
Adversarial training works against a decoder that learns beside it, and the attacker had 1,800 images only. Question: is
what it hides found by the same attack with 9,000 images, more than behind water-filled noise?

Points: `adversarial` and `plain` with their own noise of 0.025, and `plain` with water-filled noise of 0.02 nats, in
run folders of `full_front.py`, which are there for seeds 10 and 12. The 500 attacked images and their wires are those
of the record. Reported for each network: the errors with 1,800 and with 9,000 images, and the error behind
`adversarial` as a multiple of that behind water-filled noise, with an interval over the attacked images. Two networks,
no verdict.

Added after these had been looked at: `plain` with isotropic noise of 0.07, which is about as accurate as water-filled
noise of 0.02 nats, and the error behind water-filled noise as a multiple of that.

The run folders are made by `python benchmarks/full_front.py --done --only 'plain-s1[02]'` and by the same with
`adversarial-s1[02]`, as the cells themselves are in the record; those of the record were trained in fp32 (10) and bf16
(12). What is there is kept. Writes benchmarks/larger_attacker.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from splitveil import config, runs
from splitveil.evaluation.evaluate import attack_run
from splitveil.results import records
from splitveil.storage.files import write_json

POINTS = ("adversarial-s{}-own", "plain-s{}-waterfill-0.02", "plain-s{}-isotropic-0.07", "plain-s{}-own")
LABEL, SIZE, ATTACKED, EARLIER = "residual-9000", 9000, 500, 1800
RECORD = Path(__file__).with_suffix(".json")


def attack(root: Path, folder: Path) -> None:
    """Attack one run, unless that was done."""
    import torch

    torch.set_num_threads(1)
    if not (folder / "attacks" / LABEL / "summary.json").is_file():
        run = runs.Run.open(folder)
        images = runs.load_images(run.settings.model_copy(update={"root": root}))
        spec = config.Spec.model_validate("residual")
        attack_run(run, spec, images, label=LABEL, attacker_size=SIZE, attacked=ATTACKED)
    print(folder.name, flush=True)


def ratio(one: np.ndarray, other: np.ndarray, resamples: int = 10_000) -> list[float]:
    """Return the mean of errors (N,) as a multiple of another's on the same images, with its 95 % interval.

    >>> [round(part, 2) for part in ratio(np.array([2.0, 4.0]), np.array([1.0, 2.0]))]
    [2.0, 2.0, 2.0]
    """
    drawn = np.random.default_rng(0).integers(len(one), size=(resamples, len(one)))
    low, high = np.quantile(one[drawn].mean(1) / other[drawn].mean(1), (0.025, 0.975))
    return [float(one.mean() / other.mean()), float(low), float(high)]


def compared(folders: dict[int, list[Path]]) -> dict[str, Any]:
    """Return the errors of each network behind each point, and the ratio, with both numbers of images."""
    found: dict[str, Any] = {}
    for seed, each in folders.items():
        row: dict[str, Any] = {"accuracy": {one.name: float(records.answers(one).mean()) for one in each}}
        for label, size in (("residual", EARLIER), (LABEL, SIZE)):
            errors = [np.asarray(records.per_image(one, label)["mse"], dtype=float) for one in each]
            mse = {one.name: float(of.mean()) for one, of in zip(each, errors, strict=True)}
            row[f"{size} images"] = {"mse": mse, "adversarial / waterfill": ratio(errors[0], errors[1])}
            row[f"{size} images"]["waterfill / isotropic"] = ratio(errors[1], errors[2])
        found[str(seed)] = row
    return found


def digest(folders: list[Path]) -> str:
    """Return the digest of the attacked images of one network, which all attacks on it share."""
    paths = [folder / "attacks" / label / "summary.json" for folder in folders for label in ("residual", LABEL)]
    (found,) = {json.loads(path.read_text("utf-8"))["images_digest"] for path in paths}
    return found


def main() -> None:
    """Make the attacks that are not there, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/full_front"))
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 12])
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    folders = {seed: [given.runs / point.format(seed) for point in POINTS] for seed in given.seeds}
    jobs = [folders[seed][point] for point in range(len(POINTS)) for seed in given.seeds]
    with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
        pool.map(partial(attack, given.root.absolute()), jobs, chunksize=1)
    about = {"command": "python benchmarks/larger_attacker.py", "attack": "residual", "attacked": ATTACKED}
    about |= {"images_digest": {str(seed): digest(each) for seed, each in folders.items()}}
    about |= {"environment": runs.environment(), "networks": compared(folders)}
    write_json(RECORD, about)
    print(json.dumps(about["networks"], indent=1))


if __name__ == "__main__":
    main()
