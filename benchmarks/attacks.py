"""Every attack against four defenses on CIFAR-10 images: which wins where, and what the published decoder misses.

    python benchmarks/attacks.py [--root data/cifar10] [--out runs/attacks] [--jobs 2] [--only PATTERN] [--no-run]

Every cell is a run folder; finished trainings and attacks are skipped, stopped ones go on. Writes
benchmarks/attacks.json and prints the table.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
from pathlib import Path
from typing import Any

import cells
from rich.console import Console
from rich.table import Table

CEM = "cem:16,follow=0"
"""Clusters stayed within an epoch when the record was made."""
CELLS = {
    "none": [],
    "gaussian": ["gaussian:0.025"],
    "gaussian_cem": ["gaussian:0.025", CEM],
    "adversarial_cem": ["gaussian:0.025", "adversarial:0.3", CEM],
}
SETTINGS = {**cells.NETWORK, "train_size": 5000, "epochs": 12}
ATTACKS = (
    # As strong as two cores allow: the standard suites are meant for a GPU.
    "linear:looks=4",
    "nearest:neighbors=1,looks=8",
    "decoder:epochs=15,batch_size=64",
    "decoder:epochs=15,batch_size=64,network=unet_normN1C32",
    "decoder:epochs=15,batch_size=64,network=conv_normN2C64",
    "gan:epochs=5,warm_epochs=15,batch_size=64",
    "rmle:steps=300,start=linear,lr=0.02,draws=2,tuning=4",
    "map:steps=100,lr=0.05,epochs=8,width=16,draws=1,tuning=8",
    "diffusion:steps=60,samples=4,epochs=8,width=16,draws=1,tuning=8",
    "diffusion:steps=60,samples=4,epochs=8,width=16,draws=1,tuning=8,start=decoder",
)
ATTACKER, ATTACKED = 1800, 100


def run_cell(job: tuple[str, Path, Path, int]) -> None:
    """Train one defense and run every attack on it; what is there already is not made again."""
    import torch

    from splitveil import config, runs
    from splitveil.evaluation import suites
    from splitveil.training.trainer import fit

    name, root, out, threads = job
    torch.set_num_threads(threads)
    settings = config.parse({**SETTINGS, "root": root, "defense": CELLS[name]}).resolve()
    images = runs.load_images(settings)
    fit(settings, images, out / name, resume=True)
    suites.SUITES["table"] = tuple(config.Spec.model_validate(text) for text in ATTACKS)
    found = suites.run_suite(
        runs.Run.open(out / name), "table", images, attacker_size=ATTACKER, attacked=ATTACKED, progress=said(name)
    )
    print(json.dumps({"cell": name, "worst_case": found["worst_case"]["mse"], "wins": found["wins"]}), flush=True)


def said(cell: str) -> Any:
    """Says in the log which attack begins."""

    def begin(label: str) -> Any:
        print(f"{cell}: {label}", flush=True)
        return lambda *_: None

    return begin


def gather(out: Path) -> dict[str, Any]:
    """What each finished cell left."""
    found = {}
    for name in CELLS:
        file = out / name / "attacks" / "suite-table.json"
        if file.is_file():
            suite = json.loads(file.read_text(encoding="utf-8"))
            del suite["winner"]
            accuracy = json.loads((out / name / "summary.json").read_text(encoding="utf-8"))["accuracy"]
            found[name] = {"accuracy": accuracy, **suite}
    return found


def show(found: dict[str, Any]) -> None:
    """MSE of every attack on every defense, then SSIM and seconds."""
    labels = list(dict.fromkeys(label for cell in found.values() for label in cell["attacks"]))
    console = Console(width=170)
    for title, value in (("MSE", mse), ("SSIM", ssim), ("seconds", seconds)):
        table = Table("attack", *found, title=title)
        if title == "MSE":
            table.add_row("accuracy %", *(interval(cell["accuracy"], 100, 1) for cell in found.values()))
        for label in labels:
            table.add_row(label, *(value(cell, label) for cell in found.values()))
        if title == "MSE":
            table.add_row("worst case", *(interval(cell["worst_case"]["mse"]) for cell in found.values()))
            table.add_row("decoder − worst case", *(interval(cell["below_decoder"]) for cell in found.values()))
            table.add_row("mean image", *(f"{cell['baseline_mse']:.4f}" for cell in found.values()))
        console.print(table)


def mse(cell: dict[str, Any], label: str) -> str:
    """MSE with its half interval, and the images won."""
    return f"{interval(cell['attacks'][label]['mse'])} ({cell['wins'][label]})" if label in cell["wins"] else "–"


def ssim(cell: dict[str, Any], label: str) -> str:
    """Structural similarity."""
    return interval(cell["attacks"][label]["ssim"], digits=3) if label in cell["attacks"] else "–"


def seconds(cell: dict[str, Any], label: str) -> str:
    """Time of the attack."""
    return f"{cell['attacks'][label]['seconds']:.0f}" if label in cell["attacks"] else "–"


def interval(value: dict[str, Any], factor: float = 1, digits: int = 4) -> str:
    """A figure with the half width of its 95 % interval."""
    low, high = value["ci95"]
    return f"{factor * value['mean']:.{digits}f} ±{factor * (high - low) / 2:.{digits}f}"


def main() -> None:
    """Run the cells, gather, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/attacks"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="*", help="names of the cells to run, with * and ?")
    parser.add_argument("--no-run", action="store_true", help="only gather what is done")
    args = parser.parse_args()
    if not args.no_run:
        names = [name for name in CELLS if fnmatch.fnmatch(name, args.only)]
        jobs = [(name, args.root.absolute(), args.out, args.threads) for name in names]
        with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
            pool.map(run_cell, jobs, chunksize=1)
    from splitveil.runs import environment
    from splitveil.storage.files import write_json

    found = gather(args.out)
    how = {**SETTINGS, "cells": CELLS, "attacks": ATTACKS, "attacker": ATTACKER, "attacked": ATTACKED}
    record = {"settings": how, "machine": environment(), "command": "python benchmarks/attacks.py", "cells": found}
    write_json(Path(__file__).with_suffix(".json"), record)
    show(found)


if __name__ == "__main__":
    main()
