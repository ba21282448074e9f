"""What an attacker gains who knows the defense: the same attacks with and without that knowledge, on the same wires.

    splitveil train --data cifar10 --train-size 6000 --test-size 3000 --cut 4 --bottleneck 8 --epochs 6 \\
        --defense gaussian:0.025 --out base
    OMP_NUM_THREADS=1 python benchmarks/adapted.py base [--attacked 150] [--only dropout]

Each defense is put on the encoder of the run, which stays as it is: only the wire differs. Every attack is made twice,
with what the defense tells (`law`) and without, and compared image by image. ``best``: the attack with the
lowest mean error of each kind. Writes benchmarks/adapted.json after every defense.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitveil import evaluation, metrics, runs
from splitveil.attacks.base import Victim
from splitveil.config import Spec
from splitveil.data import Protocol, to_float
from splitveil.defenses.base import Defense, Stack
from splitveil.files import write_json
from splitveil.interception import Interception
from splitveil.randomness import stream
from splitveil.split import SplitModel

DEFENSES = (
    ("dropout:0.2",),
    ("dropout:0.5",),
    ("dropout:0.8",),
    ("gaussian:0.025", "dropout:0.5"),
    ("cloak:low=0.025,high=1",),
    ("topk:0.2",),
    ("local_dp:epsilon=10",),
    ("laplace:0.1",),
    ("vib:0.001",),
)
ATTACKS = {
    "linear": "linear:looks=4",
    "decoder": "decoder:epochs=20,network=conv_normN1C32,lr=0.003,weight_decay=0.0001,batch_size=128",
    "rmle": "rmle:steps=100,tv=0.01,l2=null,lr=0.02,restarts=1,start=linear,center=start,draws=2,tuning=8,epochs=50",
}


class Silent(Defense):
    """The same wire from a defense that tells nothing."""

    def __init__(self, inner: Defense):
        super().__init__()
        self.inner = inner

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return self.inner.on_wire(z, rng)


def defended(run: runs.Run, images: Any, specs: tuple[str, ...]) -> SplitModel:
    """The run's network behind other defenses; half of a cloak's channels have much noise, the others little."""
    model = run.model(images)
    model.defense = stack = Stack(*(Spec.model_validate(spec).resolve("defenses").make("defenses") for spec in specs))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stack.install(model)
    for part in stack:
        if hasattr(part, "rho"):
            part.rho.data.fill_(-6.0)
            part.rho.data[: len(part.rho) // 2] = 6.0
    return model.eval()


def errors(model: SplitModel, given: Protocol, spec: str, seed: int) -> tuple[Tensor, float]:
    """MSE of each attacked image, and the attack's seconds."""
    attack, start = Spec.model_validate(spec).resolve("attacks").make("attacks"), time.perf_counter()
    victim = Victim(model, given.grants)
    attack.fit(victim, given.attacker_train, stream("cpu", seed))
    found, _ = evaluation.reconstruct(attack, Interception(victim, seed, given.name), given.attacker_test)
    return metrics.mse(found, to_float(given.attacker_test.images)), time.perf_counter() - start


def compared(
    run: runs.Run, images: Any, given: Protocol, specs: tuple[str, ...], attacks: list[str], seed: int
) -> dict[str, Any]:
    """Each attack with and without what the defense tells, and the paired difference."""
    model, rows, both = defended(run, images, specs), {}, {"told": [], "silent": []}
    for label in attacks:
        found = {}
        for name, defense in (("silent", Silent(model.defense)), ("told", model.defense)):
            model.defense = defense
            found[name], seconds = errors(model, given, ATTACKS[label], seed)
            both[name].append(found[name])
            rows.setdefault(label, {})[name] = {
                "mse": metrics.bootstrap_ci(found[name]).as_dict(),
                "seconds": seconds,
            }
        rows[label] |= _difference(found["silent"], found["told"])
    lowest = {name: min(every, key=lambda one: float(one.mean())) for name, every in both.items()}
    return {"attacks": rows, "best": _difference(lowest["silent"], lowest["told"])}


def _difference(silent: Tensor, told: Tensor) -> dict[str, Any]:
    change = metrics.paired_difference(told, silent)
    before = float(silent.mean())
    ends = [100 * end / before for end in (change.lo, change.hi)]
    return {
        "silent_mse": before,
        "told_mse": float(told.mean()),
        "change_percent": 100 * change.mean / before,
        "ci95": ends,
    }


def main() -> None:
    """Measure, print a line for each attack, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--attacked", type=int, default=200)
    parser.add_argument("--only", default="")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=["linear", "decoder"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    run = runs.Run.open(args.run)
    images = runs.load_images(run.settings)
    given = evaluation.parts(run.settings, images, "inference_time", None, args.attacked)
    cells: dict[str, Any] = {}
    for specs in DEFENSES:
        name = " + ".join(specs)
        if args.only not in name:
            continue
        cells[name] = compared(run, images, given, specs, args.attacks, args.seed)
        for attack, row in cells[name]["attacks"].items():
            low, high = row["ci95"]
            print(
                f"{name}, {attack}: {row['silent_mse']:.4f} -> {row['told_mse']:.4f}, "
                f"{row['change_percent']:+.1f} % [{low:+.1f}, {high:+.1f}]",
                flush=True,
            )
        counts = {"attacker": len(given.attacker_train), "attacked": len(given.attacker_test)}
        about = {"images": counts, "accuracy": run.summary["accuracy"], "config": run.settings.model_dump(mode="json")}
        about |= {"machine": runs.environment(), "threads": torch.get_num_threads()}
        about["config"].pop("root", None)
        write_json(
            args.out, {"cells": cells, **about, "command": "python benchmarks/adapted.py " + " ".join(sys.argv[1:])}
        )


if __name__ == "__main__":
    main()
