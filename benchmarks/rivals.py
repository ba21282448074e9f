"""Water-filled noise beside CEM, in short trainings by the fast recipe, at equal accuracy.

    python benchmarks/rivals.py [--root data/cifar10] [--out runs/rivals] [--jobs 2] [--only PATTERN]

The plan, written before the first run of a rival. `benchmarks/hardening_front.py` asks who protects more at equal
accuracy of networks that are trained to their end, where a rival costs an hour; here there are more rivals, of three
seeds that no other benchmark has used. As in `benchmarks/tradeoff_follow.py`: 10,000 images of CIFAR-10, VGG-11 cut 4,
bottleneck 8, 4 epochs of the fast recipe in batches of 128 at rate 0.05, the last epoch.

Encoders, trained with their tail and noise of 0.025: `plain`, with nothing else; `cem` (the bound, λ = 16); `one`
(that of one Gaussian, without classes and clusters, with λ = 4, as 16 costs it more accuracy); `released` (CEM's
published loss, with the λ whose gradient is about that of 16 on all images). On each the noise that it was trained
with (`own`); on `plain` besides, with the encoder frozen, water-filled noise of three losses of the task. As more
training of a tail helps a short training whatever the noise, every tail, also that of `own`, is trained on for one
pass with the encoder frozen.

Attacker: inference_time, 1,800 images of its own, 500 attacked: `linear` and `residual`. Beside the error how often the
right photo is found among 1,000.

Endpoint: the difference in log MSE of `residual` between `cem` and water-filled noise on `plain` of equal test
accuracy, hierarchical over seeds and images (`splitveil.statistics.noise_curve`). A difference that counts is 10 %. The
other rivals, and `linear`, are secondary and judged by nobody. One look, when all is there. A training that diverges is
named in the record and left out; an arm of fewer than three seeds is not compared.

What may favor whom: water-filled noise is known to a tail from one pass only, what the rivals do from the whole
training; the strengths of the rivals were not searched, and of water-filled noise there are three. Nothing is said of
longer trainings.

Seen before: of seed 0, which is not part of this, that water-filled noise of 0.06 nats cost 2.6 points of accuracy,
and a variant of it that was not pursued; of seed 4 the `own` wire of `plain` and one of isotropic noise. An earlier
plan had curves of isotropic noise, `nopeek` and `adversarial` too; they were left out for their time before any of
them was there.

Every point is a run folder; what is done is skipped, what was stopped goes on. Writes benchmarks/rivals.json.
"""

from __future__ import annotations

import fnmatch
import json
import math
import multiprocessing
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cells

RECIPE = {"recipe": "fast", "optimizer": "sgd", "epochs": 4, "batch_size": 128, "lr": 0.05, "warmup_epochs": 1}
SETTINGS = {**cells.NETWORK, "train_size": 10_000, **RECIPE}
SEEDS = (4, 5, 6)
SIGMA = 0.025
LOSSES = (0.06, 0.15, 0.4)
WITHOUT = 0.002
"""The loss at which `plain` without more noise stands on the curve of water-filled noise, which has no place for 0."""
ENCODERS = {
    "plain": [f"gaussian:{SIGMA}", "cem:0"],  # measures the leakage and trains nothing
    "cem": [f"gaussian:{SIGMA}", "cem:16"],
    "one": [f"gaussian:{SIGMA}", "cem:4,clusters=1,per_class=false"],
    "released": [f"gaussian:{SIGMA}", "cem:3.4,loss=released"],
}
CURVE = {WITHOUT: ("plain", "own")} | {loss: ("plain", f"waterfill-{loss}") for loss in LOSSES}
ATTACKS, ATTACKER_SIZE, ATTACKED = ("linear", "residual"), 1800, 500
RECORD = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class How:
    """How all cells of a plan are trained and attacked.

    Attributes:
        settings: of the trainings.
        attacks, attacker_size, attacked: on every wire.
        tail_images: of the training set, from which tails are trained on; None: all.
    """

    settings: dict[str, Any]
    attacks: tuple[str, ...]
    attacker_size: int
    attacked: int
    tail_images: int | None = None


HOW = How(SETTINGS, ATTACKS, ATTACKER_SIZE, ATTACKED)


def points(name: str) -> dict[str, dict[str, Any]]:
    """The noises on an encoder."""
    filled = {f"waterfill-{loss}": {"loss": loss} for loss in LOSSES}
    return {"own": {"sigma": SIGMA}} | (filled if name == "plain" else {})


@dataclass(frozen=True)
class Job:
    """One encoder of one seed, for one process: how it is trained, and the noises that are put on it."""

    name: str
    seed: int
    root: Path
    out: Path
    threads: int
    defense: list[str]
    points: dict[str, dict[str, Any]]
    how: How = HOW


def run(job: Job) -> None:
    """Train an encoder, put its noises on and attack them; what is there already is not made again."""
    import torch

    from splitveil import config, runs
    from splitveil.errors import DivergedError
    from splitveil.storage.files import write_json
    from splitveil.training.trainer import fit

    torch.set_num_threads(job.threads)
    own = {**job.how.settings, "defense": job.defense, "seed": job.seed, "root": job.root}
    settings = config.parse(own).resolve()
    images, folder, shared = runs.load_images(settings), job.out / f"{job.name}-s{job.seed}", {}
    try:
        fit(settings, images, folder, resume=True)
    except DivergedError as error:
        write_json(job.out / f"{folder.name}.diverged.json", {"reason": str(error)})
        return
    base = runs.Run.open(folder)
    for point, noise in job.points.items():
        place = job.out / f"{folder.name}-{point}"
        if not (place / "row.json").is_file():
            row = measure(base, images, place, noise | ({} if "sigma" in noise else {"shared": shared}), job.how)
            write_json(place / "row.json", row)
            print(f"{place.name}: {100 * row['accuracy']:.2f} %", flush=True)  # errors are looked at once, at the end


def measure(base: Any, images: Any, place: Path, noise: dict[str, Any], how: How) -> dict[str, Any]:
    """Put a noise on an encoder, attack the wire, and return the figures."""
    from hardening_front import Fixed, linkage

    from splitveil import config, runs
    from splitveil.defenses.gaussian import Gaussian
    from splitveil.evaluation.evaluate import attack_run
    from splitveil.hardening import run as hardening
    from splitveil.hardening.ground import Noise
    from splitveil.hardening.search import _some, mean_image_error

    class Some(Fixed):
        """Noise of one strength, with a tail that is trained on from some of the images."""

        def step(self, loss: float, known: Any, search: Any, tail: Any, images: Any, recipe: Any) -> Any:
            some = _some(images, how.tail_images or len(images), self.seed)
            return super().step(loss, known, search, tail, some, recipe)

    fixed = Some if how.tail_images else Fixed

    class Own(fixed):  # type: ignore[valid-type, misc]
        """The noise that is there already, for which nothing need be known of the features."""

        def known(self) -> tuple[Any, float]:
            return None, mean_image_error(self.train.images)

        def _noise(self, loss: float, known: Any) -> Noise:
            return Noise(Gaussian(self.sigma), self.sigma, math.prod(self.model.wire_shape), linear_error=0.0)  # unused

    if place.exists() and not (place / "summary.json").is_file():
        shutil.rmtree(place)  # noise of a given strength has no steps between which it could go on
    kind: Any = partial(Own if "sigma" in noise else fixed, **noise)
    made = hardening.harden(base, images, place, max_drop=100, resume=place.exists(), kind=kind)
    opened, row = runs.Run.open(place), {"accuracy": made["accuracy"]["mean"]}
    for attack in how.attacks:
        file = place / "attacks" / attack / "summary.json"
        if not file.is_file():
            spec = config.Spec.model_validate(attack)
            attack_run(opened, spec, images, attacker_size=how.attacker_size, attacked=how.attacked)
        summary = json.loads(file.read_text("utf-8"))
        row[attack] = {metric: summary[metric]["mean"] for metric in cells.METRICS}
    return row | {"linkage_1000": linkage(opened, images)}


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """Every point that is done, by the name of its folder."""
    names = [f"{name}-s{seed}-{point}" for name in ENCODERS for point in points(name) for seed in SEEDS]
    found = {name: out / name / "row.json" for name in names}
    return {name: json.loads(file.read_text("utf-8")) for name, file in found.items() if file.is_file()}


def against(out: Path, own: tuple[str, str], attack: str) -> dict[str, Any] | None:
    """One point against the curve of water-filled noise at equal accuracy, over all seeds; None: not all is there."""
    import numpy as np

    from splitveil.results import records
    from splitveil.statistics.noise_curve import at_equal_accuracy

    wanted = [*CURVE.values(), own]
    folders = [[out / f"{name}-s{seed}-{point}" for name, point in wanted] for seed in SEEDS]
    if not all((folder / "row.json").is_file() for each in folders for folder in each):
        return None
    errors = [np.stack([records.per_image(folder, attack)["mse"] for folder in each]) for each in folders]
    hits = [np.stack([records.answers(folder).astype(float) for folder in each]) for each in folders]
    (one,) = at_equal_accuracy(tuple(CURVE), errors, hits, shared=(False, True))
    difference = one.difference and one.difference.as_dict()
    return {"accuracy": one.accuracy, "mse": one.reference, "log_ratio": difference, "beyond": one.beyond}


def compared(out: Path) -> dict[str, Any]:
    """Every rival against water-filled noise of equal accuracy, by each attack."""
    rivals = [name for name in ENCODERS if name != "plain"]
    return {name: {attack: against(out, (name, "own"), attack) for attack in ATTACKS} for name in rivals}


def table(made: dict[str, Any]) -> str:
    """Means over the seeds and the differences, a row for each point."""
    import numpy as np

    lines = []
    for name, point in [(encoder, point) for encoder in ENCODERS for point in points(encoder)]:
        each = [made["points"].get(f"{name}-s{seed}-{point}") for seed in SEEDS]
        if all(each):
            texts = [f"{name}, {point}", f"{100 * np.mean([row['accuracy'] for row in each]):.1f}"]
            texts += [f"{np.mean([row[attack]['mse'] for row in each]):.4f}" for attack in ATTACKS]
            texts += [_percent(made["compared"].get(name, {}).get(attack)) for attack in ATTACKS]
            texts += [f"{np.mean([row['residual']['ssim'] for row in each]):.2f}"]
            texts += [f"{100 * np.mean([row['linkage_1000'] for row in each]):.1f}"]
            lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def _percent(about: dict[str, Any] | None) -> str:
    import numpy as np

    if not about or not about["log_ratio"]:
        return ""
    ratio = about["log_ratio"]
    value, low, high = (100 * np.expm1(x) for x in (ratio["mean"], *ratio["ci95"]))
    return f"{value:+.0f} % [{low:+.0f}, {high:+.0f}]"


def main() -> None:
    """Run the command line, leave the record and print the table."""
    args = cells.given(__doc__ or "", "rivals")
    # Absolute: the root is a setting of the run, and a resumed run must have the same settings.
    common = args.root.absolute(), args.out, args.threads
    made_of = {name: (defense, points(name)) for name, defense in ENCODERS.items()}
    every = [Job(name, seed, *common, *parts) for seed in SEEDS for name, parts in made_of.items()]
    jobs = [job for job in every if fnmatch.fnmatch(f"{job.name}-s{job.seed}", args.only)]
    if not jobs:
        sys.exit(f"no encoder matches {args.only}; there are: {', '.join(f'{job.name}-s{job.seed}' for job in every)}")
    if not args.no_run:
        with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
            pool.map(run, jobs, chunksize=1)
    from splitveil.runs import environment
    from splitveil.storage.files import write_json

    diverged = sorted(file.name.partition(".diverged")[0] for file in args.out.glob("*.diverged.json"))
    how: dict[str, Any] = {"settings": SETTINGS, "encoders": ENCODERS, "diverged": diverged}
    how |= {"attacks": ATTACKS, "attacker_size": ATTACKER_SIZE, "attacked": ATTACKED}
    done, command = rows(args.out), "python benchmarks/rivals.py"
    made = how | {"machine": environment(), "command": command, "points": done, "compared": compared(args.out)}
    asked = [(name, seed) for name in ENCODERS for seed in SEEDS if f"{name}-s{seed}" not in diverged]
    whole = len(done) == sum(len(points(name)) for name, _ in asked)
    # The committed record is that of the plan; a part of it is left beside the runs.
    write_json(RECORD if whole else args.out / RECORD.name, made)
    print(table(made) if whole else f"{len(done)} points are done; the comparison comes when all are there")


if __name__ == "__main__":
    main()
