"""What the accuracy-and-error benchmarks share: cells that are trained and attacked once, and resumed if stopped."""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NETWORK = {"data": "cifar10", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8}
METRICS = ("mse", "ssim", "psnr")


@dataclass(frozen=True)
class Plan:
    """Cells by name, each with what it changes of ``settings``, and how every cell is attacked."""

    cells: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    attacks: tuple[str, ...]
    attacker_size: int
    attacked: int

    def names(self) -> list[str]:
        """Names of the attacks."""
        return [text.partition(":")[0] for text in self.attacks]


@dataclass(frozen=True)
class Job:
    """One cell for one process."""

    plan: Plan
    name: str
    root: Path
    out: Path
    threads: int


def run_cell(job: Job) -> None:
    """Train and attack one cell; what is there already is not made again."""
    import torch

    from splitveil import config, runs
    from splitveil.evaluation.evaluate import attack_run
    from splitveil.training.trainer import fit

    torch.set_num_threads(job.threads)
    plan, folder = job.plan, job.out / job.name
    settings = config.parse({**plan.settings, "root": job.root, **plan.cells[job.name]}).resolve()
    images = runs.load_images(settings)
    summary = fit(settings, images, folder, resume=True)
    run, errors = runs.Run.open(folder), {}
    for text in plan.attacks:
        spec = config.Spec.model_validate(text)
        file = folder / "attacks" / spec.name / "summary.json"
        if not file.is_file():
            attack_run(run, spec, images, attacker_size=plan.attacker_size, attacked=plan.attacked)
        errors[spec.name] = json.loads(file.read_text())["mse"]["mean"]
    print(json.dumps({"cell": job.name, "accuracy": summary["accuracy"]["mean"], **errors}), flush=True)


def finished(plan: Plan, out: Path) -> list[dict[str, Any]]:
    """One row for each cell that is done."""
    rows = []
    for name in plan.cells:
        files = {attack: out / name / "attacks" / attack / "summary.json" for attack in plan.names()}
        if all(file.is_file() for file in files.values()):
            summary = json.loads((out / name / "summary.json").read_text())
            attacks = {attack: json.loads(file.read_text()) for attack, file in files.items()}
            row = {"cell": name, **{key: summary[key] for key in ("accuracy", "leakage_nats", "epoch", "seconds")}}
            row |= {attack: {key: found[key] for key in METRICS} for attack, found in attacks.items()}
            rows.append(row | {"baseline_mse": attacks[plan.names()[0]]["baseline_mse"]})
    return rows


def given(description: str, stem: str) -> argparse.Namespace:
    """Read the command line of a benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs") / stem)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="*", help="names of the cells to run, with * and ?")
    parser.add_argument("--no-run", action="store_true", help="only gather the cells that are done")
    return parser.parse_args()


def main(plan: Plan, description: str, stem: str) -> list[dict[str, Any]]:
    """Run the command line of a benchmark; the finished rows, which ``benchmarks/STEM.json`` then holds."""
    args = given(description, stem)
    names = [name for name in plan.cells if fnmatch.fnmatch(name, args.only)]
    if not names:
        sys.exit(f"no cell matches {args.only}; there are: {', '.join(plan.cells)}")
    if not args.no_run:
        # Absolute: the root is a setting of the run, and a resumed run must have the same settings.
        jobs = [Job(plan, name, args.root.absolute(), args.out, args.threads) for name in names]
        with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
            pool.map(run_cell, jobs, chunksize=1)
    from splitveil.runs import environment
    from splitveil.storage.files import write_json

    rows = finished(plan, args.out)
    how = {**plan.settings, "attacks": plan.attacks, "attacker_size": plan.attacker_size, "attacked": plan.attacked}
    result = {"settings": how, "machine": environment(), "command": f"python benchmarks/{stem}.py", "cells": rows}
    # The committed record is that of the plan; a part of it is left beside the runs.
    write_json((Path(__file__).parent if args.only == "*" else args.out) / f"{stem}.json", result)
    return rows if args.only == "*" else []
