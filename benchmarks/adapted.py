"""What an attacker gains who knows the defense: the same attacks with and without that knowledge, on the same wires.

    splitveil train --data cifar10 --train-size 6000 --test-size 3000 --cut 4 --bottleneck 8 --epochs 6 \\
        --defense gaussian:0.025 --out base
    OMP_NUM_THREADS=1 python benchmarks/adapted.py base [--device cuda] [--attacked 150] [--only topk laplace]

Each defense is put on the encoder of the run, which stays as it is: only the wire differs. Every attack is made twice,
with what the defense tells (`law`) and without, and compared image by image. ``best``: of each kind, the attack with
the lowest error on a few of the attacker's own images, from which no attack learns. Writes benchmarks/adapted.json
after every defense.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from splitveil import metrics, runs
from splitveil.attacks.base import Victim
from splitveil.config import Spec
from splitveil.data import Protocol, to_float
from splitveil.defenses.base import Defense, Stack
from splitveil.errors import UserError
from splitveil.evaluation import evaluate, stage
from splitveil.evaluation.interception import Interception, hold_out
from splitveil.model import SplitModel
from splitveil.randomness import stream
from splitveil.statistics import intervals
from splitveil.storage.files import write_json

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
    "shadow": "shadow:steps=500,lr=0.001,epochs=20,network=conv_normN1C32",
}
LEARNING = ("linear", "decoder")


class Silent(Defense):
    """The same wire from a defense that tells nothing."""

    def __init__(self, inner: Defense):
        super().__init__()
        self.inner = inner

    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return self.inner.on_wire(z, rng)


def defended(run: runs.Run, images: Any, specs: tuple[str, ...], device: str) -> SplitModel:
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
    return model.eval().to(device, memory_format=torch.channels_last)


def errors(model: SplitModel, given: Protocol, spec: str, seed: int) -> tuple[Tensor, float, float]:
    """MSE of each attacked image (N,), the mean one of the attacker's images that judge, and the attack's seconds."""
    attack, start = Spec.model_validate(spec).resolve("attacks").make("attacks"), time.perf_counter()
    victim = Victim(model, given.grants)
    held, own = hold_out(given.attacker_train, seed)
    attack.fit(victim, own, stream(victim.device, seed))
    asked = held.joined(given.attacker_test)
    found, _ = evaluate.reconstruct(attack, Interception(victim, seed, given.name), asked)
    mse = metrics.mse(found, to_float(asked.images))
    return mse[len(held) :], float(mse[: len(held)].mean()), time.perf_counter() - start


def compared(model: SplitModel, given: Protocol, attacks: list[str], seed: int) -> dict[str, Any]:
    """Each attack with and without what the defense tells, and the paired difference."""
    rows: dict[str, Any] = {}
    best: dict[str, tuple[float, str, Tensor]] = {}
    told = model.defense
    for label in attacks:
        found = {}
        for name, defense in (("silent", Silent(told)), ("told", told)):
            model.defense = defense
            found[name], judged_mse, seconds = errors(model, given, ATTACKS[label], seed)
            interval = intervals.bootstrap_ci(found[name]).as_dict()
            rows.setdefault(label, {})[name] = {"mse": interval, "judged_mse": judged_mse, "seconds": seconds}
            if name not in best or judged_mse < best[name][0]:
                best[name] = (judged_mse, label, found[name])
        rows[label] |= _difference(found["silent"], found["told"])
    (_, before, silent), (_, after, with_law) = best["silent"], best["told"]
    return {"attacks": rows, "best": {"silent": before, "told": after, **_difference(silent, with_law)}}


def _difference(silent: Tensor, told: Tensor) -> dict[str, Any]:
    change = intervals.paired_difference(told, silent)
    before = float(silent.mean())
    ends = [100 * end / before for end in (change.lo, change.hi)]
    return {
        "silent_mse": before,
        "told_mse": float(told.mean()),
        "change_percent": 100 * change.mean / before,
        "ci95": ends,
    }


def chosen(words: list[str]) -> list[tuple[str, ...]]:
    """The defenses that are named, or have one of ``words`` in their names; all where there are none.

    Raises:
        UserError: a word that no defense has.
    """
    names = {" + ".join(specs): specs for specs in DEFENSES}
    found = {name for word in words for name in names if name == word or (word in name and word not in names)}
    if unknown := [word for word in words if not any(word in name for name in names)]:
        raise UserError(f"--only {' '.join(unknown)}: no such defense; choose of: {', '.join(names)}")
    return [specs for name, specs in names.items() if not words or name in found]


def attacks_on(specs: tuple[str, ...], asked: list[str] | None) -> list[str]:
    """``asked``, or by default the two that learn, and rmle where noise or what is hidden differs between entries."""
    return asked or [*LEARNING, *(["rmle"] if any(spec.startswith(("cloak", "dropout")) for spec in specs) else [])]


def main() -> None:
    """Measure, print a line for each attack, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--attacked", type=int, default=200)
    parser.add_argument("--only", nargs="+", default=[], help="defenses by name, or words in their names")
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    try:
        wanted = chosen(args.only)
        run = runs.Run.open(args.run)
    except UserError as error:
        parser.error(str(error))
    images = runs.load_images(run.settings)
    given = stage.parts(run.settings, images, "inference_time", None, args.attacked)
    counts = {"attacker": len(given.attacker_train), "attacked": len(given.attacker_test)}
    about = {"images": counts, "accuracy": run.summary["accuracy"], "config": run.settings.model_dump(mode="json")}
    about["config"].pop("root", None)
    about |= {"machine": runs.environment(), "device": args.device, "threads": torch.get_num_threads()}
    about |= {"command": "python benchmarks/adapted.py " + " ".join(sys.argv[1:])}
    cells: dict[str, Any] = {}
    for specs in wanted:
        name, model = " + ".join(specs), defended(run, images, specs, args.device)
        cells[name] = compared(model, given, attacks_on(specs, args.attacks), args.seed)
        for attack, row in [*cells[name]["attacks"].items(), ("best", cells[name]["best"])]:
            print(f"{name}, {attack}: {_line(row)}", flush=True)
        write_json(args.out, {"cells": cells, **about})


def _line(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    change = f"{row['change_percent']:+.1f} % [{low:+.1f}, {high:+.1f}]"
    return f"{row['silent_mse']:.4f} -> {row['told_mse']:.4f}, {change}"


if __name__ == "__main__":
    main()
