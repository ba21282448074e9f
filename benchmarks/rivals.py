"""Water-filled noise beside all its rivals, in short trainings by the fast recipe: who protects more at equal accuracy?

    python benchmarks/rivals.py [--root data/cifar10] [--out runs/rivals] [--jobs 2] [--only PATTERN]

The plan, written before the first run. `benchmarks/hardening_front.py` asks this of networks that are trained to their
end, where a rival costs an hour; here every rival is there, of three seeds that no other benchmark has used. As in
`benchmarks/tradeoff_follow.py`: 10,000 images of CIFAR-10, VGG-11 cut 4, bottleneck 8, 4 epochs of the fast recipe in
batches of 128 at rate 0.05, the last epoch.

Encoders, trained with their tail: noise alone of 0.025 (`plain`), 0.1, 0.2, 0.4 and 0.8; and with noise of 0.025 `cem`
(the bound, λ = 16), `one` (that of one Gaussian, without classes and clusters), `released` (CEM's published loss,
λ = 16), `adversarial` (ResSFL) and `nopeek`, both with their defaults. On each the noise that it was trained with
(`own`); on `plain` water-filled noise of several losses of the task; `filled`, water-filled noise on the encoders of
`noise-0.2`, `cem` and `adversarial`; and with encoder and tail trained on together through the noise for two passes
(`+encoder`) one water-filled and one isotropic noise on `plain`. As more training of a tail helps a short training
whatever the noise, every tail, also that of `own`, is trained on for one pass with the encoder frozen.

Attacker: inference_time, 1,800 images of its own, 500 attacked: `linear` and `residual`. Beside the error how often the
right photo is found among 1,000.

Endpoint: the difference in log MSE of `residual` to noise alone of equal test accuracy (`noise`, trained with it),
hierarchical over seeds and images (`splitveil.statistics.noise_curve`). Of each rival besides the difference to
water-filled noise on `plain` of equal test accuracy. A difference that counts is 10 %. Secondary: the same by `linear`.
One look, when all points of all three seeds are there. Nothing is said of longer trainings.

The losses of the water-filled noise were set by the accuracy of one network of seed 0, before the first attack.

Every point is a run folder; what is done is skipped, what was stopped goes on. Writes benchmarks/rivals.json.
"""

from __future__ import annotations

import fnmatch
import functools
import json
import multiprocessing
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cells

RECIPE = {"recipe": "fast", "epochs": 4, "batch_size": 128, "lr": 0.05, "warmup_epochs": 1}
SETTINGS = {**cells.NETWORK, "train_size": 10_000, **RECIPE}
SEEDS = (4, 5, 6)
LEAST = 0.025
SIGMAS = (LEAST, 0.1, 0.2, 0.4, 0.8)
LOSSES = (0.06, 0.15, 0.4, 1.0)
TRAINED_WITH = {
    "cem": "cem:16",
    "one": "cem:16,clusters=1,per_class=false",
    "released": "cem:16,loss=released",
    "adversarial": "adversarial",
    "nopeek": "nopeek",
}
FILLED, PASSES = 0.15, 2
"""Of the water-filled noise on other encoders, and of the training of encoder and tail through the noise."""
ATTACKS, ATTACKER_SIZE, ATTACKED = ("linear", "residual"), 1800, 500
RECORD = Path(__file__).with_suffix(".json")


def encoders() -> dict[str, list[str]]:
    """The defenses that each encoder is trained with; cem:0 measures the leakage and trains nothing."""
    noise = {encoder(sigma): [f"gaussian:{sigma}", "cem:0"] for sigma in SIGMAS}
    return noise | {name: [f"gaussian:{LEAST}", defense] for name, defense in TRAINED_WITH.items()}


def encoder(sigma: float) -> str:
    """The name of the encoder that was trained with noise alone."""
    return "plain" if sigma == LEAST else f"noise-{sigma}"


def points(name: str) -> dict[str, dict[str, Any]]:
    """The noises on an encoder."""
    trained_with = next((sigma for sigma in SIGMAS if encoder(sigma) == name), LEAST)
    found: dict[str, dict[str, Any]] = {"own": {"sigma": trained_with}}
    if name == "plain":
        found |= {f"waterfill-{loss}": {"loss": loss} for loss in LOSSES}
        found[f"waterfill-{FILLED}+encoder"] = {"loss": FILLED, "passes": PASSES}
        found["isotropic-0.2+encoder"] = {"sigma": 0.2, "passes": PASSES}
    if name in ("noise-0.2", "cem", "adversarial"):
        found["filled"] = {"loss": FILLED}
    return found


@dataclass(frozen=True)
class Job:
    """One encoder of one seed, for one process."""

    name: str
    seed: int
    root: Path
    out: Path
    threads: int


def run(job: Job) -> None:
    """Train an encoder, put its noises on and attack them; what is there already is not made again."""
    import torch
    from hardening_front import Fixed, linkage

    from splitveil import config, runs
    from splitveil.evaluation.evaluate import attack_run
    from splitveil.hardening import run as hardening
    from splitveil.storage.files import write_json
    from splitveil.training.trainer import fit

    torch.set_num_threads(job.threads)
    own = {**SETTINGS, "defense": encoders()[job.name], "seed": job.seed, "root": job.root}
    settings = config.parse(own).resolve()
    images, folder, shared = runs.load_images(settings), job.out / f"{job.name}-s{job.seed}", {}
    fit(settings, images, folder, resume=True)
    base = runs.Run.open(folder)
    for point, noise in points(job.name).items():
        place = job.out / f"{folder.name}-{point}"
        if (kept := place / "row.json").is_file():
            continue
        kind: Any = functools.partial(Fixed, **noise, shared=shared)
        made = hardening.harden(base, images, place, max_drop=100, resume=place.exists(), kind=kind)
        opened, row = runs.Run.open(place), {"accuracy": made["accuracy"]["mean"]}
        for attack in ATTACKS:
            file = place / "attacks" / attack / "summary.json"
            if not file.is_file():
                spec = config.Spec.model_validate(attack)
                attack_run(opened, spec, images, attacker_size=ATTACKER_SIZE, attacked=ATTACKED)
            summary = json.loads(file.read_text("utf-8"))
            row[attack] = {metric: summary[metric]["mean"] for metric in cells.METRICS}
        row["linkage_1000"] = linkage(opened, images)
        write_json(kept, row)
        print(json.dumps({"point": place.name} | row), flush=True)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    """Every point that is done, by the name of its folder."""
    names = [f"{name}-s{seed}-{point}" for name in encoders() for point in points(name) for seed in SEEDS]
    found = {name: out / name / "row.json" for name in names}
    return {name: json.loads(file.read_text("utf-8")) for name, file in found.items() if file.is_file()}


def against(out: Path, curve: dict[float, tuple[str, str]], own: tuple[str, str], attack: str) -> dict[str, Any] | None:
    """One point against a curve of strengths at equal accuracy, over all seeds; None: not all is there."""
    import numpy as np

    from splitveil.results import records
    from splitveil.statistics.noise_curve import at_equal_accuracy

    wanted = [*curve.values(), own]
    folders = [[out / f"{name}-s{seed}-{point}" for name, point in wanted] for seed in SEEDS]
    if not all((folder / "row.json").is_file() for each in folders for folder in each):
        return None
    errors = [np.stack([records.per_image(folder, attack)["mse"] for folder in each]) for each in folders]
    hits = [np.stack([records.answers(folder).astype(float) for folder in each]) for each in folders]
    (one,) = at_equal_accuracy(tuple(curve), errors, hits, shared=(False, True))
    difference = one.difference and one.difference.as_dict()
    return {"accuracy": one.accuracy, "mse": one.reference, "log_ratio": difference, "beyond": one.beyond}


def compared(out: Path) -> dict[str, Any]:
    """Every point against noise alone, and the rivals against water-filled noise on `plain`, at equal accuracy."""
    noise = {sigma: (encoder(sigma), "own") for sigma in SIGMAS}
    filled = {loss: ("plain", f"waterfill-{loss}") for loss in LOSSES}
    found: dict[str, Any] = {}
    for own in ((name, point) for name in encoders() for point in points(name)):
        for attack in ATTACKS:
            about = {
                against_what: against(out, curve, own, attack)
                for against_what, curve in (("noise", noise), ("waterfill", filled))
                if own not in curve.values()
            }
            found.setdefault("/".join(own), {})[attack] = about
    return found


def table(made: dict[str, Any]) -> str:
    """Means over the seeds and both differences by `residual`, a row for each point."""
    import numpy as np

    lines = []
    for name, about in made["compared"].items():
        each = [made["points"].get(f"{name.replace('/', f'-s{seed}-')}") for seed in SEEDS]
        if all(each):
            mean = {key: np.mean([row[key]["mse"] for row in each]) for key in ATTACKS}
            cells_ = [name, f"{100 * np.mean([row['accuracy'] for row in each]):.1f}"]
            cells_ += [f"{value:.4f}" for value in mean.values()]
            cells_ += [_percent(about["residual"].get(curve)) for curve in ("noise", "waterfill")]
            cells_ += [f"{np.mean([row['residual']['ssim'] for row in each]):.2f}"]
            cells_ += [f"{100 * np.mean([row['linkage_1000'] for row in each]):.1f}"]
            lines.append(f"| {' | '.join(cells_)} |")
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
    every = [Job(name, seed, args.root.absolute(), args.out, args.threads) for seed in SEEDS for name in encoders()]
    jobs = [job for job in every if fnmatch.fnmatch(f"{job.name}-s{job.seed}", args.only)]
    if not jobs:
        sys.exit(f"no encoder matches {args.only}; there are: {', '.join(f'{job.name}-s{job.seed}' for job in every)}")
    if not args.no_run:
        with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
            pool.map(run, jobs, chunksize=1)
    from splitveil.runs import environment
    from splitveil.storage.files import write_json

    how = {"settings": SETTINGS, "encoders": encoders(), "attacker_size": ATTACKER_SIZE, "attacked": ATTACKED}
    done, command = rows(args.out), "python benchmarks/rivals.py"
    made = how | {"machine": environment(), "command": command, "points": done, "compared": compared(args.out)}
    whole = len(done) == sum(len(points(name)) for name in encoders()) * len(SEEDS)
    # The committed record is that of the plan; a part of it is left beside the runs.
    write_json(RECORD if whole else args.out / RECORD.name, made)
    print(table(made) if whole else f"{len(done)} points are done; the comparison comes when all are there")


if __name__ == "__main__":
    main()
