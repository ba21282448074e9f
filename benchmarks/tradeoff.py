"""Error against accuracy: more noise beside noise with CEM, on 5,000 CIFAR-10 images.

    python benchmarks/tradeoff.py --root data/cifar10 --out runs/tradeoff [--jobs 2] [--only PATTERN]

Every cell is a run folder; finished cells are skipped, a stopped one resumes. Writes benchmarks/tradeoff.json and .png.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

EPOCHS = 12
SETTINGS = {
    "data": "cifar10",
    "train_size": 5000,
    "arch": "vgg11_bn_sgm",
    "cut": 4,
    "bottleneck": 8,
    "epochs": EPOCHS,
}
ATTACKS = ("linear", "decoder:epochs=15,batch_size=64")
ATTACKER_SIZE, ATTACKED = 1800, 500


def cells() -> dict[str, dict[str, Any]]:
    """Name -> defences and seed; the order is that of need."""

    def noise(sigma: float, seed: int = 0) -> tuple[str, dict[str, Any]]:
        # cem:0 measures the leakage and trains nothing.
        return f"noise-{sigma}-s{seed}", {"defense": [f"gaussian:{sigma}", "cem:0"], "seed": seed}

    def cem(loss: str, weight: float, seed: int = 0) -> tuple[str, dict[str, Any]]:
        defense = ["gaussian:0.025", f"cem:weight={weight},loss={loss}"]
        return f"{loss}-{weight}-s{seed}", {"defense": defense, "seed": seed}

    plan = [noise(0.025), cem("bound", 16), cem("released", 1.6), noise(0.2), cem("bound", 4), noise(0.4)]
    plan += [noise(0.2, 1), cem("bound", 16, 1), noise(0.2, 2), cem("bound", 16, 2)]
    plan += [cem("released", 16), noise(0.1), cem("bound", 1.6), cem("released", 4), noise(0.8)]
    plan += [cem("bound", 0.5), cem("released", 0.5), noise(0.05)]
    return dict(plan)


def run_cell(job: tuple[str, dict[str, Any], Path, Path, int]) -> None:
    """Train and attack one cell; what is there already is not made again."""
    name, changes, root, out, threads = job
    import torch

    from splitveil import config, runs
    from splitveil.evaluation import attack_run
    from splitveil.training import fit

    torch.set_num_threads(threads)
    settings = config.parse({**SETTINGS, "root": root, **changes}).resolve()
    images = runs.load_images(settings)
    folder = out / name
    summary = fit(settings, images, folder, resume=True)
    run, errors = runs.Run.open(folder), {}
    for text in ATTACKS:
        spec = config.Spec.model_validate(text)
        file = folder / "attacks" / spec.name / "summary.json"
        if not file.is_file():
            attack_run(run, spec, images, attacker_size=ATTACKER_SIZE, attacked=ATTACKED)
        errors[spec.name] = json.loads(file.read_text())["mse"]["mean"]
    print(json.dumps({"cell": name, "accuracy": summary["accuracy"]["mean"], **errors}), flush=True)


def finished(out: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the cells that are done."""
    rows = []
    for name in plan:
        files = {
            spec.partition(":")[0]: out / name / "attacks" / spec.partition(":")[0] / "summary.json" for spec in ATTACKS
        }
        if all(file.is_file() for file in files.values()):
            summary = json.loads((out / name / "summary.json").read_text())
            attacks = {attack: json.loads(file.read_text()) for attack, file in files.items()}
            row = {"cell": name, **{key: summary[key] for key in ("accuracy", "leakage_nats", "epoch", "seconds")}}
            row |= {attack: {key: found[key] for key in ("mse", "ssim", "psnr")} for attack, found in attacks.items()}
            rows.append(row | {"baseline_mse": attacks["decoder"]["baseline_mse"]})
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Error of each attack against accuracy, one line per way of protecting, 95 % intervals on both axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = {
        "noise": "more noise, no CEM",
        "bound": "σ 0.025 + CEM (bound)",
        "released": "σ 0.025 + CEM (released loss)",
    }
    figure, axes = plt.subplots(1, len(ATTACKS), figsize=(12, 4.8), sharex=True)
    for axis, attack in zip(axes, (spec.partition(":")[0] for spec in ATTACKS), strict=True):
        for (family, label), color in zip(names.items(), ("#7a7a7a", "#0b6bcb", "#d1660a"), strict=True):
            chosen = [row for row in rows if row["cell"].startswith(family)]
            line = sorted((r for r in chosen if r["cell"].endswith("s0")), key=lambda r: float(r["cell"].split("-")[1]))
            axis.plot(
                [100 * r["accuracy"]["mean"] for r in line], [r[attack]["mse"]["mean"] for r in line], "-", color=color
            )
            for row in chosen:
                (x, xs), (y, ys) = ((v["mean"], v["ci95"]) for v in (row["accuracy"], row[attack]["mse"]))
                bars = {"xerr": [[100 * (x - xs[0])], [100 * (xs[1] - x)]], "yerr": [[y - ys[0]], [ys[1] - y]]}
                axis.errorbar(
                    100 * x, y, **bars, fmt="o", ms=4, lw=0.7, color=color, label=label if row is chosen[0] else None
                )
                axis.annotate(
                    row["cell"].split("-")[1], (100 * x, y), (4, 4), textcoords="offset points", fontsize=7, color=color
                )
        axis.set(title=f"{attack} attack", xlabel="test accuracy, %", ylabel="attack MSE (higher: more private)")
        axis.grid(alpha=0.25)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    from splitveil.files import atomic_write

    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/tradeoff"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="*", help="names of the cells to run, with * and ?")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/tradeoff"), help="stem of .json and .png")
    parser.add_argument("--no-run", action="store_true", help="only gather and draw the cells that are done")
    args = parser.parse_args()
    plan = {name: changes for name, changes in cells().items() if fnmatch.fnmatch(name, args.only)}
    if not plan:
        sys.exit(f"no cell matches {args.only}; there are: {', '.join(cells())}")
    jobs = [(name, changes, args.root, args.out, args.threads) for name, changes in plan.items()]
    if not args.no_run:
        with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
            pool.map(run_cell, jobs, chunksize=1)
    from splitveil.files import write_json
    from splitveil.runs import environment

    rows = finished(args.out, plan)
    settings = {**SETTINGS, "attacks": list(ATTACKS), "attacker_size": ATTACKER_SIZE, "attacked": ATTACKED}
    write_json(args.results.with_suffix(".json"), {"settings": settings, "machine": environment(), "cells": rows})
    plot(rows, args.results.with_suffix(".png"))


if __name__ == "__main__":
    main()
