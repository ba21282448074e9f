"""All that is told against the attacker of a short training, at equal accuracy: isotropic noise, water-filled noise and
what was to improve it, CEM in three forms, adversarial training.

    python benchmarks/short_front.py [--root data/cifar10] [--out runs/short_front] [--jobs 2] [--only PATTERN]

The plan, written before the first run. `benchmarks/hardening_front.py` asks this of networks that are trained to their
end, where most arms were never made, as each takes hours; here all arms are there, of three seeds that no other
benchmark has used. Networks and trainings are those of `benchmarks/rivals.py`: 10,000 images of CIFAR-10, VGG-11 cut 4,
bottleneck 8, 4 epochs of the fast recipe by SGD in batches of 128 at rate 0.05, the last epoch.

Encoders, trained with their tail and noise of 0.025: `plain`; `cem` (the bound, λ = 16); `one` (that of one Gaussian,
without classes and clusters, λ = 4); `released` (CEM's published loss, λ = 3.4); `adversarial` (0.3, the published
strength). Noises on a frozen encoder, each with one pass of the tail: on all encoders the noise that they were trained
with (`own`); on `plain` isotropic noise of four strengths, water-filled noise of four losses of the task, `again-0.15`
(water-filled noise with the Fisher information of the tail that was trained on through the first, and another pass of
the tail), and `+encoder`, where encoder and tail are then trained on together through the noise for two passes, of
water-filled and of isotropic noise; on `cem` and `adversarial` water-filled noise of 0.06.

Attacker: inference_time, 1,800 images of its own, 500 attacked, one wire per image: `linear` and `residual`, with MSE
and SSIM, and how often the right photo is found among 1,000.

Endpoints: the difference in log MSE of `residual` between water-filled and isotropic noise on `plain` at 1 and at 3
points less accuracy than `plain` with its own noise has on average (`splitveil.statistics.noise_curve.at_accuracies`),
hierarchical over seeds and images. A difference that counts is 10 %; the goal is 40 %. Every other point against both
curves at its own accuracy is secondary, without a verdict, and so is `linear`. One look, when all cells are there. A
training that diverges is named and left out; an arm of fewer than three seeds is not compared.

What may favor whom: as in `rivals.py`. Strengths were not searched; 16, 4 and 3.4 are those of `rivals.py`, whose
accuracies and errors with other seeds had been seen: 53.8, 55.8 and 56.8 %. Nothing is said of longer trainings.

A cell is an encoder of a seed with all its noises: a line of OUT/records.jsonl when it is done. Cells in --done are not
made again, on whatever machine they were made; one that was stopped goes on. Writes benchmarks/short_front.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import gpu_cell
import numpy as np
import rivals
from rivals import ATTACKS, SIGMA, Job
from trained_tradeoff import commit, shares, spread

from splitveil import runs
from splitveil.results import records
from splitveil.statistics.noise_curve import at_accuracies, at_equal_accuracy
from splitveil.storage.files import write_json, write_text

SEEDS = (7, 8, 9)
SIGMAS, LOSSES = (0.05, 0.1, 0.2, 0.4), (0.02, 0.06, 0.15, 0.4)
ENCODERS = {
    "plain": [f"gaussian:{SIGMA}"],
    "cem": [f"gaussian:{SIGMA}", "cem:16"],
    "adversarial": [f"gaussian:{SIGMA}", "adversarial:0.3"],
    "one": [f"gaussian:{SIGMA}", "cem:4,clusters=1,per_class=false"],
    "released": [f"gaussian:{SIGMA}", "cem:3.4,loss=released"],
}
NAMES = {
    "cem": "`cem:16`",
    "adversarial": "`adversarial:0.3`",
    "one": "`one`, λ = 4",
    "released": "`released`, λ = 3.4",
}
"""Encoders other than `plain` in the table."""
OWN = {"own": {"sigma": SIGMA}}
BESIDES = {
    "again-0.15": {"loss": 0.15, "again": True},
    "waterfill-0.15+encoder": {"loss": 0.15, "passes": 2},
    "isotropic-0.1+encoder": {"sigma": 0.1, "passes": 2},
}
ISOTROPIC = {SIGMA: "plain/own"} | {sigma: f"plain/isotropic-{sigma}" for sigma in SIGMAS}
FILLED = {rivals.WITHOUT: "plain/own"} | {loss: f"plain/waterfill-{loss}" for loss in LOSSES}
LOST = (0.01, 0.03)
"""Accuracy below that of the undefended wire at which the two noises are compared."""
TESTED = 10_000
RECORD = Path(__file__).with_suffix(".json")
Records = dict[str, dict[str, Any]]


def points(encoder: str) -> dict[str, dict[str, Any]]:
    """The noises on an encoder."""
    isotropic = {f"isotropic-{sigma}": {"sigma": sigma} for sigma in SIGMAS}
    filled = {f"waterfill-{loss}": {"loss": loss} for loss in LOSSES}
    if encoder == "plain":
        return {**OWN, **isotropic, **filled, **BESIDES}
    return OWN | ({"waterfill-0.06": filled["waterfill-0.06"]} if encoder in ("cem", "adversarial") else {})


def run(job: Job) -> None:
    """Train an encoder and attack it behind each of its noises, and leave the record of all that beside its folder."""
    rivals.run(job)
    name = f"{job.name}-s{job.seed}"
    diverged = job.out / f"{name}.diverged.json"
    record: dict[str, Any] = {"cell": name, "seeds_planned": len(SEEDS), "encoder": job.name, "seed": job.seed}
    if diverged.is_file():
        record |= {"diverged": json.loads(diverged.read_text("utf-8"))["reason"]}
    else:
        trained = runs.Run.open(job.out / name)
        record |= {"defense": job.defense, "accuracy_as_trained": trained.summary["accuracy"]["mean"]}
        record |= {"images_digest": trained.summary["train_digest"]}
        record |= {"points": {point: _point(job.out / f"{name}-{point}") for point in job.points}}
    write_json(job.out / f"{name}.json", record | {"commit": commit(), "machine": runs.environment()})


def _point(folder: Path) -> dict[str, Any]:
    """Return the figures of a point, with the error of each attacked image and which test images were right."""
    row = json.loads((folder / "row.json").read_text("utf-8"))
    each = {attack: records.per_image(folder, attack)["mse"].tolist() for attack in ATTACKS}
    errors = {attack: [float(f"{error:.5g}") for error in of] for attack, of in each.items()}
    return row | {"mse_of": errors, "hits": gpu_cell.packed(list(records.answers(folder)))}


def cells() -> dict[str, tuple[str, int]]:
    """Return encoder and seed of each cell by its name, in the order in which they are made."""
    return {f"{encoder}-s{seed}": (encoder, seed) for seed in SEEDS for encoder in ENCODERS}


def read(paths: list[Path]) -> Records:
    """Return the records that are there, by cell."""
    found: Records = {}
    for line in (json.loads(text) for path in paths if path.is_file() for text in path.read_text("utf-8").splitlines()):
        if line["cell"] not in cells() or line["seeds_planned"] != len(SEEDS):
            sys.exit(f"{line['cell']} is a record of another plan; expected one of {', '.join(cells())}")
        found.setdefault(line["cell"], line)
    return found


def of_all(made: Records, name: str) -> list[dict[str, Any]] | None:
    """Return the figures of a point, such as plain/own, of each seed; None: some are missing."""
    encoder, _, point = name.partition("/")
    each = [made.get(f"{encoder}-s{seed}", {}).get("points", {}).get(point) for seed in SEEDS]
    return each if all(each) else None


def arrays(made: Records, names: list[str], attack: str) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
    """Return each seed's errors (points, N) and answers (points, M); None: some points are missing."""
    each = [of_all(made, name) for name in names]
    if not all(each):
        return None
    by_seed = list(zip(*[rows for rows in each if rows], strict=True))
    errors = [np.stack([row["mse_of"][attack] for row in rows]) for rows in by_seed]
    return errors, [np.stack([gpu_cell.unpacked(row["hits"], TESTED) for row in rows]) for rows in by_seed]


def against(made: Records, curve: dict[float, str], name: str, attack: str) -> dict[str, Any] | None:
    """Return a point against a curve at its accuracy, over all seeds; None: some points are missing."""
    there = arrays(made, [*curve.values(), name], attack)
    if there is None:
        return None
    (one,) = at_equal_accuracy(tuple(curve), *there, shared=(False, True))
    difference = one.difference and shares(one.difference)
    about = {"accuracy": one.accuracy, "reference": one.reference, "difference": difference}
    return about | {"at_end": one.at_end, "beyond": one.beyond}


def endpoints(made: Records, attack: str) -> list[dict[str, Any]] | None:
    """Return water-filled against isotropic noise at the accuracies of the plan; None: some points are missing."""
    there = arrays(made, [*ISOTROPIC.values(), *FILLED.values()], attack)
    if there is None:
        return None
    accuracy = float(np.mean([hits[0].mean() for hits in there[1]]))
    asked = tuple(accuracy - lost for lost in LOST)
    found = at_accuracies(tuple(ISOTROPIC), tuple(FILLED), asked, *there, shared=(False, True))
    return [
        {
            "lost": lost,
            "accuracy": one.accuracy,
            "isotropic": one.reference,
            "waterfill": one.mse,
            "difference": one.difference and shares(one.difference),
            "beyond": one.beyond,
        }
        for lost, one in zip(LOST, found, strict=True)
    ]


def summarized(made: Records) -> dict[str, Any]:
    """Return the rows over the seeds, the endpoints and every other comparison."""
    rows, compared = {}, {}
    for name in [f"{encoder}/{point}" for encoder in ENCODERS for point in points(encoder)]:
        if not (each := of_all(made, name)):
            continue
        rows[name] = {"accuracy": spread([row["accuracy"] for row in each])}
        rows[name] |= {f"{attack}_{metric}": spread([row[attack][metric] for row in each])
                       for attack in ATTACKS for metric in ("mse", "ssim")}  # fmt: skip
        rows[name] |= {"linkage_1000": spread([row["linkage_1000"] for row in each])}
        curves = {"isotropic": ISOTROPIC, "waterfill": FILLED}
        compared[name] = {
            f"{attack}/{kind}": against(made, curve, name, attack)
            for kind, curve in curves.items()
            for attack in ATTACKS
            if name not in curve.values()
        }
    ends = {attack: endpoints(made, attack) for attack in ATTACKS}
    return {"endpoints": ends, "compared": compared, "rows": rows}


def label(name: str) -> str:
    """Return a point in words: the defense that its encoder was trained with, and the noise that was put on it.

    >>> label("cem/own"), label("plain/isotropic-0.1+encoder")
    ('`cem:16`', 'isotropic, σ 0.1, encoder trained on')
    """
    encoder, _, point = name.partition("/")
    kind, _, strength = point.removesuffix("+encoder").partition("-")
    noise = {"own": f"isotropic, σ {SIGMA}", "isotropic": f"isotropic, σ {strength}"}
    words = [NAMES[encoder]] if encoder in NAMES else []
    if point != "own" or not words:
        words.append(noise.get(kind, f"water-filled, {strength} nats"))
    if kind == "again":
        words.append("Fisher information twice")
    if point.endswith("+encoder"):
        words.append("encoder trained on")
    return ", ".join(words)


def table(result: dict[str, Any]) -> str:
    """Return a row for each point: accuracy, errors, and `residual` against both noises at equal accuracy."""
    lines = []
    for name, row in result["rows"].items():
        texts = [
            label(name),
            f"{100 * row['accuracy'][0]:.1f}",
            *(f"{row[f'{attack}_mse'][0]:.4f}" for attack in ATTACKS),
        ]
        texts += [_percent(result["compared"][name].get(f"residual/{kind}")) for kind in ("isotropic", "waterfill")]
        texts += [f"{row['residual_ssim'][0]:.2f}", f"{100 * row['linkage_1000'][0]:.1f}"]
        lines.append(f"| {' | '.join(texts)} |")
    return "\n".join(lines)


def _percent(about: dict[str, Any] | None) -> str:
    if not about or not about["difference"]:
        return ""
    value, low, high = (100 * part for part in about["difference"])
    return f"{value:+.0f} % [{low:+.0f}, {high:+.0f}]".replace("-", "−")


def main() -> None:
    """Make the cells that are not there; compare when all are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/short_front"))
    parser.add_argument("--done", type=Path, nargs="*", default=[RECORD.with_suffix(".jsonl")], help="earlier records")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="*", help="names of the cells to make, with * and ?")
    parser.add_argument("--no-run", action="store_true", help="only compare what is there")
    given = parser.parse_args()
    file = given.out / "records.jsonl"
    made = read([file, *given.done])
    common = given.root.absolute(), given.out, given.threads
    left = {name: cell for name, cell in cells().items() if name not in made and fnmatch.fnmatch(name, given.only)}
    jobs = [Job(encoder, seed, *common, ENCODERS[encoder], points(encoder)) for encoder, seed in left.values()]
    if jobs and not given.no_run:
        given.out.mkdir(parents=True, exist_ok=True)
        with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
            pool.map(run, jobs, chunksize=1)
        made |= {name: json.loads((given.out / f"{name}.json").read_text("utf-8")) for name in left}
        write_text(file, "".join(json.dumps(record) + "\n" for record in made.values()))
    if missing := [name for name in cells() if name not in made]:
        sys.exit(f"cells are missing: {', '.join(missing)}; nothing is compared before all of them are there")
    result = summarized(made)
    how = {"settings": rivals.SETTINGS, "seeds": SEEDS, "encoders": ENCODERS, "attacks": ATTACKS}
    how |= {"attacker_size": rivals.ATTACKER_SIZE, "attacked": rivals.ATTACKED}
    how |= {"diverged": [name for name, record in made.items() if "diverged" in record]}
    write_json(RECORD, {"command": "python benchmarks/short_front.py", **how, **result})
    write_text(RECORD.with_suffix(".jsonl"), "".join(json.dumps(record) + "\n" for record in made.values()))
    print(table(result))


if __name__ == "__main__":
    main()
