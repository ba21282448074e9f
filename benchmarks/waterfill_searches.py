"""The strongest attacks with the encoder's weights, on water-filled and on isotropic noise of equal accuracy.

    python benchmarks/waterfill_searches.py [--runs runs/short_front] [--root data/cifar10] [--jobs 2] [--no-run]

The plan, written before the first attack. Question: do attacks that search for the image, with the encoder, the noise's
law and a model of what images look like, take away the lead that water-filled noise has over isotropic noise against
attacks that only learn? `short_front.py` left the networks; here those of `plain` are attacked, seed 7 first, the
others as far as there is time, before any error is looked at.

Points: water-filled noise of 0.06 nats, and isotropic noise of 0.1, 0.2 and 0.4, between which its accuracy lies (of
the test images with seed 7, 55.1 % and 57.6 to 50.9 %). The errors of `residual` on 500 images of the same
wires were in the record of short_front.py, and had not been looked at. Attacks: `residual`; `refine` from its answer;
guided `diffusion` from its answer, with the settings of `benchmarks/attacks.py`. Attacker: inference_time,
1,800 images of its own, 100 attacked, one wire per image.

Endpoint: the difference in log MSE between the water-filled noise and isotropic noise of equal accuracy
(`splitveil.statistics.noise_curve`), for each attack, and for the one that does best behind each wire. A difference
that counts is 10 %. Of one seed the interval is over images, and nothing is said of other networks.

Points are attacked in run folders of `short_front.py`, which keep what is done. Writes
benchmarks/waterfill_searches.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from trained_tradeoff import shares

from splitveil import config, runs
from splitveil.evaluation.evaluate import attack_run
from splitveil.results import records
from splitveil.statistics.noise_curve import at_equal_accuracy
from splitveil.storage.files import write_json

SIGMAS = (0.1, 0.2, 0.4)
POINTS = [*(f"isotropic-{sigma}" for sigma in SIGMAS), "waterfill-0.06"]
ATTACKS = {
    "residual-100": "residual",
    "refine-residual": "refine:start=residual,tuning=16",
    "diffusion-residual": "diffusion:steps=60,samples=4,epochs=8,width=16,draws=1,tuning=8,start=residual",
}
ATTACKER_SIZE, ATTACKED = 1800, 100
RECORD = Path(__file__).with_suffix(".json")


def attack(root: Path, given: tuple[Path, str]) -> None:
    """Make one attack on one run, unless it is there."""
    import torch

    torch.set_num_threads(1)
    folder, label = given
    if not (folder / "attacks" / label / "summary.json").is_file():
        run = runs.Run.open(folder)
        images = runs.load_images(run.settings.model_copy(update={"root": root}))
        spec = config.Spec.model_validate(ATTACKS[label])
        attack_run(run, spec, images, label=label, attacker_size=ATTACKER_SIZE, attacked=ATTACKED)
    print(folder.name, label, flush=True)  # errors are looked at once, at the end


def against(errors: list[np.ndarray], hits: list[np.ndarray]) -> dict[str, Any]:
    """Return the last row of errors (K + 1, N) and answers (K + 1, M) of each seed against isotropic noise."""
    (one,) = at_equal_accuracy(SIGMAS, errors, hits, shared=(False, True))
    difference = one.difference and shares(one.difference)
    return {"accuracy": one.accuracy, "isotropic": one.reference, "difference": difference, "beyond": one.beyond}


def errors_of(folders: list[Path]) -> dict[str, np.ndarray]:
    """Return the errors (points, N) of each attack on one network, and of the one that does best behind each wire."""
    found = {
        label: np.stack([records.per_image(folder, label)["mse"] for folder in folders]).astype(float)
        for label in ATTACKS
    }
    best = np.stack([of.mean(1) for of in found.values()]).argmin(0)
    return found | {"best": np.stack([list(found.values())[which][point] for point, which in enumerate(best)])}


def compared(folders: dict[int, list[Path]]) -> dict[str, Any]:
    """Return the mean errors at each point, and water-filled against isotropic noise by each attack and by the best."""
    errors = {seed: errors_of(each) for seed, each in folders.items()}
    hits = {
        seed: np.stack([records.answers(folder) for folder in each]).astype(float) for seed, each in folders.items()
    }
    rows = {
        folder.name: {"accuracy": float(hits[seed][point].mean())}
        | {label: float(of[point].mean()) for label, of in errors[seed].items()}
        for seed, each in folders.items()
        for point, folder in enumerate(each)
    }
    labels = [*ATTACKS, "best"]
    of_all = {label: against([of[label] for of in errors.values()], [*hits.values()]) for label in labels}
    each = {seed: {label: against([errors[seed][label]], [hits[seed]]) for label in labels} for seed in folders}
    return {"difference": of_all, "difference_of_each": each, "rows": rows}


def main() -> None:
    """Make the attacks that are not there, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/short_front"))
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[7])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--no-run", action="store_true", help="only compare what is there")
    given = parser.parse_args()
    folders = {seed: [given.runs / f"plain-s{seed}-{point}" for point in POINTS] for seed in given.seeds}
    if not given.no_run:
        # The slowest first, so that no core waits at the end.
        every = [*itertools.chain(*folders.values())]
        jobs = [(folder, label) for label, folder in itertools.product(reversed(ATTACKS), every)]
        with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
            pool.map(partial(attack, given.root.absolute()), jobs, chunksize=1)
    made = compared(folders)
    summary = json.loads((folders[given.seeds[0]][0] / "attacks" / next(iter(ATTACKS)) / "summary.json").read_text())
    about = {"command": "python benchmarks/waterfill_searches.py", "environment": runs.environment()}
    about |= {"attacks": ATTACKS, "attacker_size": ATTACKER_SIZE, "attacked": ATTACKED}
    write_json(RECORD, about | {"images_digest": summary["images_digest"], "seeds": given.seeds, **made})
    print(json.dumps(made, indent=1))


if __name__ == "__main__":
    main()
