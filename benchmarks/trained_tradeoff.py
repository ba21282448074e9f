"""CEM against training with more noise, at equal and realistic accuracy, on two processor cores.

    python benchmarks/trained_tradeoff.py --root data/cifar10 --out runs/trained_tradeoff [--done RECORDS.jsonl]

The plan, written before the first cell. `equal_accuracy_plan.py` asks the same of more strengths with attacks that take
a GPU; this is the part of it that two cores can answer.

- CIFAR-10, 45,000 training images (5,000 of the 50,000 validate), vgg11_bn_sgm, cut 4, bottleneck 8, recipe fast,
  4 epochs, the last of which is served. Encoder, tail and noise are trained together.
- Noise alone of σ = 0.1, 0.2 and 0.4, and `cem4`: noise of 0.025 with `cem:4`. Seeds 1 to 4, one after the other (those
  first in whose precision the machine is fast), all four points of each. No seed is added and none is left out.
- Accuracy: all 10,000 test images, after one more epoch of the tail alone on the frozen wire (`hardening.search.LONG`,
  from the trained weights); the accuracy as trained stands beside it.
- Attacker: inference_time, 9,000 images of its own, 1,000 attacked, one wire per image. `linear` and `residual`, which
  was the strongest attack on every wire that it was tried on; the one with the lower error on the attacker's own
  held-out images counts.
- Endpoint: log MSE of `cem4` minus that of noise alone at the accuracy of `cem4` (`splitveil.statistics.noise_curve`),
  hierarchical over seeds and images. A difference that counts is 10 % of MSE: CEM protects "more" where the whole
  interval lies above log 1.1, "less" where it lies below -log 1.1, "as much" where it lies within ± log 1.1, which
  four seeds seldom show. Nothing is said where `cem4` is not surely less accurate than σ = 0.1 or not more accurate
  than σ = 0.4. Should that be so once all cells of the four seeds are there, σ = 0.05 or 0.8 is added for all of them
  by their accuracies alone (`missing_end`), before any error is looked at. One look, when all cells are there.
- Secondary, without a verdict: each attack alone; the accuracy as trained.
- Precision: all cells of a seed are trained in that of its first cell, whatever machine they are made on: fp32 for seed
  1, and for the others bf16 where the hardware computes in it. All attacks are trained in fp32.
- After it: `one4`, the bound of one Gaussian without classes and clusters, of the same seeds, compared likewise.

Precision and what is added by accuracies were written when three cells were there, before anybody looked at an error.
On 2026-11-30, when six cells were there, the errors of `linear` in them were seen, in a printed record. The plan has
not been changed since, but for one draw: `missing_end` now draws as the comparison does, so that both say the same of
cells at an end of the curve. That was found in simulated data, before the look.

A cell that is done is a line of OUT/records.jsonl; a rerun goes on, also from the records of another machine (--done).
Writes benchmarks/trained_tradeoff.json once the cells of `one4` are there too. With --no-run it trains nothing, and
writes it as soon as the cells of the endpoint are there.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import gpu_cell
import numpy as np
import torch

from splitveil import config, runs
from splitveil.attacks import _rounding
from splitveil.data import protocol
from splitveil.evaluation.tail import retrained
from splitveil.hardening.search import LONG
from splitveil.nn.processor import capabilities
from splitveil.randomness import stream
from splitveil.recipe import TEST, precision
from splitveil.results.records import answers, per_image
from splitveil.statistics.intervals import Interval, binomial_ci
from splitveil.statistics.noise_curve import at_equal_accuracy, on_curve
from splitveil.storage.files import write_json, write_text
from splitveil.training.trainer import predict

SETTINGS = {"data": "cifar10", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8, "recipe": "fast", "epochs": 4}
SIGMAS = (0.1, 0.2, 0.4)
MORE = (0.05, 0.8)
"""Strengths of which one is added where the accuracy of `cem4` is not between those of the others."""


def noise(*sigmas: float) -> dict[str, list[str]]:
    """Return the points of noise alone."""
    return {f"noise-{sigma}": [f"gaussian:{sigma}"] for sigma in sigmas}


NOISE = noise(*SIGMAS)
CEM = {"cem4": ["gaussian:0.025", "cem:4"]}
CONTROL = {"one4": ["gaussian:0.025", "cem:4,clusters=1,per_class=false"]}
SEEDS = (1, 2, 3, 4)
ATTACKS = ("linear", "residual")
ATTACKED, TESTED = 1000, 10_000
DIFFERENCE = math.log(1.1)
"""Difference in log MSE that counts."""
RECORD = Path(__file__).with_suffix(".json")
FP32 = "32-true"
Records = dict[str, dict[str, Any]]


def cells(records: Records | None = None) -> dict[str, tuple[list[str], int]]:
    """Defenses and seed of each cell by its name, in the order in which they are made, as far as the records decide."""
    first = {f"{point}-s{seed}": (made, seed) for seed in SEEDS for point, made in {**NOISE, **CEM}.items()}
    more = noise(added) if records and (added := missing_end(records)) else {}
    after = {f"{point}-s{seed}": (made, seed) for seed in SEEDS for point, made in {**more, **CONTROL}.items()}
    return first | dict(sorted(after.items(), key=lambda cell: cell[0].startswith("one4")))


def missing_end(records: Records) -> float | None:
    """Return the strength of noise that the plan adds, by accuracies alone; None: no other, or cells are missing."""
    names = [[f"{one}-s{seed}" for one in (*NOISE, *CEM)] for seed in SEEDS]
    if any(name not in records for each in names for name in each):
        return None
    right = [np.stack([hits_of(records[name]) for name in each]) for each in names]
    alike = [np.ones((len(rows), ATTACKED)) for rows in right]  # errors are not looked at; as many, for the same draws
    (one,) = at_equal_accuracy(SIGMAS, alike, right, shared=(False, True))
    lowest = float(np.mean([rows[len(SIGMAS) - 1].mean() for rows in right]))
    return MORE[0] if one.at_end else MORE[1] if one.accuracy <= lowest else None


def commit() -> str:
    """Return the commit of this clone."""
    return subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=RECORD.parent, capture_output=True, text=True
    ).stdout.strip()


def precision_of(seed: int, records: Records) -> str:
    """Return the precision of the seed's cells: that of those which are there, or what this machine is fast in."""
    found = {record.get("precision", FP32) for record in records.values() if record["seed"] == seed}
    if len(found) > 1:
        sys.exit(f"the records of seed {seed} are of {' and '.join(sorted(found))}; expected one precision")
    return found.pop() if found else precision("auto", torch.device("cpu"))


def following(records: Records) -> str | None:
    """Return the next cell, one in whose precision this machine is fast while there are such; None: all are done."""
    left = {name: seed for name, (_, seed) in cells(records).items() if name not in records}
    fast = {FP32, precision("auto", torch.device("cpu"))}
    return next((name for name, seed in left.items() if precision_of(seed, records) in fast), next(iter(left), None))


def measure(name: str, root: Path, out: Path, records: Records) -> dict[str, Any]:
    """Train and attack a cell and train its tail on; what there is of it already is not made again."""
    defense, seed = cells(records)[name]
    chosen = precision_of(seed, records)
    settings = {**SETTINGS, "defense": defense, "seed": seed, "precision": chosen, "root": str(root.absolute())}
    cell = gpu_cell.Cell(
        name, settings, attacks=ATTACKS, attacked=ATTACKED, tail=False, run=name, planned=len(SEEDS), scratch=out
    )
    with mock.patch.object(_rounding, "precision", return_value=FP32):
        record = gpu_cell.run(cell)
    if "failed" in record:
        sys.exit(f"{name}: {record['failed']}\n{record['where']}")
    start, run = time.perf_counter(), runs.Run.open(out / name)
    hits = tail_hits(run, gpu_cell.loaded(config.parse(settings).resolve()))
    each = {attack: per_image(run.path, attack)["mse"].tolist() for attack in ATTACKS}
    return record | {
        "mse_of": {attack: [float(f"{error:.5g}") for error in errors] for attack, errors in each.items()},
        "hits": gpu_cell.packed(list(answers(run.path))),
        "retrained_accuracy": binomial_ci(int(hits.sum()), len(hits)).as_dict(),
        "retrained_hits": gpu_cell.packed(list(hits)),
        "tail_seconds": round(time.perf_counter() - start, 1),
        "precision": chosen,
        "attack_precision": FP32,
        "images_digest": run.summary["train_digest"],
        "commit": commit(),
        "machine": runs.environment() | {"able": [name for name, has in capabilities().items() if has]},
    }


def tail_hits(run: runs.Run, images: Any) -> np.ndarray:
    """Whether each test image is classified right after the tail was trained on, on the frozen wire."""
    settings, parts = run.settings, protocol(run.settings.protocol, images, seed=run.settings.seed)
    model = run.model(images)
    found = retrained(
        model,
        model.tail,
        parts.defender_train,
        settings.seed,
        augmentation=settings.augmentation,
        bf16=precision(settings.precision, model.mean.device) == "bf16-mixed",
        recipe=LONG,
    )
    test = parts.utility_test
    return (predict(found, test.images, stream("cpu", settings.seed, TEST, 0, 0)) == test.labels).numpy()


def errors_of(record: dict[str, Any], attack: str) -> np.ndarray:
    """MSE of each attacked image by an attack, or by the best one."""
    if attack == "best":
        made = record["inference_time"]["attacks"]
        attack = min(made, key=lambda name: made[name]["held_out"]["mse"])
    return np.array(record["mse_of"][attack])


def hits_of(record: dict[str, Any], hits: str = "retrained_hits") -> np.ndarray:
    """Whether each test image is classified right."""
    return gpu_cell.unpacked(record[hits], TESTED)


def strengths(records: Records) -> tuple[float, ...]:
    """Return the strengths of the curve."""
    added = missing_end(records)
    return tuple(sorted((*SIGMAS, added))) if added else SIGMAS


def compared(records: Records, sigmas: tuple[float, ...], point: str, attack: str, hits: str) -> dict[str, Any] | None:
    """A point against noise of equal accuracy; None: some of its cells are not there."""
    names = [[f"{one}-s{seed}" for one in (*noise(*sigmas), point)] for seed in SEEDS]
    if any(name not in records for each in names for name in each):
        return None
    rows = [np.stack([errors_of(records[name], attack) for name in each]) for each in names]
    right = [np.stack([hits_of(records[name], hits) for name in each]) for each in names]
    (one,) = at_equal_accuracy(sigmas, rows, right, shared=(False, True))
    about = {"accuracy": one.accuracy, "mse": float(np.mean([each[-1].mean() for each in rows]))}
    difference = one.difference
    return about | {
        "noise_mse": one.reference,
        "difference": difference and shares(difference),
        "at_end": one.at_end,
        "beyond": one.beyond,
        "against_noise_of": {str(sigma): shares(raw) for sigma, raw in one.raw.items()},
        "of_each_seed": each_seed(sigmas, rows, right),
    }


def shares(log: Interval) -> list[float]:
    """Return a difference of logarithms, with its interval, as parts of the error of noise."""
    return [math.expm1(x) for x in (log.mean, log.lo, log.hi)]


def each_seed(sigmas: tuple[float, ...], rows: list[np.ndarray], right: list[np.ndarray]) -> list[float | None]:
    """Return the difference to noise at equal accuracy in each seed as a part of its error; None: outside its curve."""
    found = []
    for errors, hits in zip(rows, right, strict=True):
        accuracy, log = hits.mean(1), np.log(errors.mean(1))
        reference, inside = on_curve(sigmas, accuracy[:-1], log[:-1], accuracy[-1])
        found.append(math.expm1(float(log[-1] - reference)) if inside else None)
    return found


def verdict(difference: list[float] | None) -> str:
    """What the plan says that a difference is worth, which is given as a part of the error of noise."""
    if difference is None:
        return "outside the curve"
    _, low, high = (math.log1p(one) for one in difference)
    if low > DIFFERENCE:
        return "protects more than noise"
    if high < -DIFFERENCE:
        return "protects less than noise"
    return "protects as much as noise" if low > -DIFFERENCE and high < DIFFERENCE else "not decided"


def summarized(records: Records) -> dict[str, Any]:
    """The rows of the points that are there with all seeds, and their comparisons."""
    sigmas = strengths(records)
    found: dict[str, Any] = {"sigmas": sigmas, "endpoint": None, "secondary": {}, "rows": {}}
    for point in (*CEM, *CONTROL):
        kinds = {(attack, hits) for attack in ("best", *ATTACKS) for hits in ("retrained_hits", "hits")}
        each = {f"{attack}/{hits}": compared(records, sigmas, point, attack, hits) for attack, hits in sorted(kinds)}
        if each["best/retrained_hits"] is None:
            continue
        if point in CEM:
            endpoint = each.pop("best/retrained_hits")
            found["endpoint"] = {"point": point, **endpoint, "verdict": verdict(endpoint["difference"])}
        found["secondary"][point] = each
    for point in (*noise(*sigmas), *CEM, *CONTROL):
        of = [records[name] for seed in SEEDS if (name := f"{point}-s{seed}") in records]
        if len(of) == len(SEEDS):
            row = {key: spread([one[key]["mean"] for one in of]) for key in ("accuracy", "retrained_accuracy")}
            for attack in ("best", *ATTACKS):
                row[f"{attack}_mse"] = spread([errors_of(one, attack).mean() for one in of])
            found["rows"][point] = row
    return found


def spread(values: list[float]) -> list[float]:
    """Mean over the seeds, and standard deviation."""
    return [float(np.mean(values)), float(np.std(values, ddof=1))]


def read(paths: list[Path]) -> Records:
    """The records of the plan's cells by name; the first one of a cell counts, so that none is made again."""
    found: Records = {}
    planned = {*cells(), *(f"{point}-s{seed}" for point in noise(*MORE) for seed in SEEDS)}
    for line in (json.loads(text) for path in paths if path.is_file() for text in path.read_text("utf-8").splitlines()):
        if line["seeds_planned"] != len(SEEDS) or line["cell"] not in planned:
            sys.exit(f"{line['cell']} is a record of another plan; expected one of {', '.join(sorted(planned))}")
        found.setdefault(line["cell"], line)
    return found


def main() -> None:
    """Make the cells that are not there, one after the other; compare when those of the endpoint are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/trained_tradeoff"))
    parser.add_argument("--done", type=Path, nargs="*", default=[RECORD.with_suffix(".jsonl")], help="earlier records")
    parser.add_argument("--no-run", action="store_true", help="only compare what is there")
    given = parser.parse_args()
    file = given.out / "records.jsonl"
    records = read([file, *given.done])
    while not given.no_run and (name := following(records)):
        records[name] = measure(name, given.root, given.out, records)
        write_text(file, "".join(json.dumps(record) + "\n" for record in records.values()))
        found = records[name]
        accuracy = [round(100 * found[key]["mean"], 2) for key in ("accuracy", "retrained_accuracy")]
        print(f"{name}: {accuracy} %, {found['seconds']:.0f} + {found['tail_seconds']:.0f} s", flush=True)
    result = summarized(records)
    if result["endpoint"] is None:
        sys.exit("cells of the endpoint are missing: nothing is compared before all of them are there")
    command = "python benchmarks/trained_tradeoff.py --root data/cifar10 --out runs/trained_tradeoff"
    plan = {"settings": SETTINGS, "seeds": SEEDS, "attacked": ATTACKED}
    write_json(RECORD, {"command": command, **plan, **result})
    write_text(RECORD.with_suffix(".jsonl"), "".join(json.dumps(record) + "\n" for record in records.values()))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
