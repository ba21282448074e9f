"""What a borrowed GPU should give, most wanted first, within a time limit; a rerun goes on.

    python benchmarks/gpu.py --archive cifar10.tar.xz --seconds 500 --out gpu [--done gpu/records.jsonl]
    python benchmarks/gpu.py --rehearse --out rehearsal

Stages, in this order, each left out with --without NAME:

- check: every defense and every attack once, small. Says what does not run on this machine.
- profile: milliseconds of a training step, eager, compiled and captured.
- ablation: what each ingredient of the fast recipe is worth, on the validation images.
- cells: the plan of benchmarks/equal_accuracy_plan.py, several at once.

OUT/records.jsonl gets a line as soon as a cell is done, OUT/profile.json the profile. --archive is a tar of
``cifar10/train/CLASS/*.png`` and ``cifar10/test/...``; --root names such a folder that is there already. --rehearse
runs all of it on this machine with tiny sizes.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import equal_accuracy_plan
import gpu_cell
from gpu_cell import Cell

NETWORK = {"data": "cifar10", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8}
DIGITS = {"data": "digits", "root": None, "train_size": 100, "test_size": 60, "epochs": 2, "batch_size": 32}
DIGITS |= {"arch": "resnet20_sgm", "cut": 2, "bottleneck": 4}
"""What a rehearsal trains on."""
STAGES = ("check", "profile", "ablation", "cells")
SMALL = {"epochs": 1, "steps": 2, "iterations": 2, "restarts": 1, "looks": 1, "batch_size": 64, "warm_epochs": 1}
SMALL |= {"start_epochs": 1, "network": "conv_normN1C32", "samples": 2, "size": 8, "width": 8}
"""Settings that make any plug-in quick, by the names that plug-ins give them."""
CHECKED_NETWORKS = {"latent": "dense_normN2C64", "confidence": "dense_normN2C64"}
ABLATION = {
    "fast": {},
    "published schedule": {"schedule": "steps", "warmup_epochs": 1.0},
    "no nesterov": {"nesterov": False},
    "biases as fast as the rest": {"bias_lr": 1.0},
    "biases 64 times as fast": {"bias_lr": 64.0},
    "no label smoothing": {"label_smoothing": 0.0},
    "the network's dropout": {"network_dropout": True},
    "weights as drawn": {"unit_variance": False},
    "flip by chance": {"alternate_flip": False},
    "rotation 15": {"rotate": 15.0},
    "rate 0.1": {"lr": 0.1},
    "rate 0.4": {"lr": 0.4},
    "batch 1024": {"batch_size": 1024},
    "batch 256": {"batch_size": 256},
}


def small(kind: str, name: str) -> str:
    """A plug-in with the quick settings that it has."""
    import inspect

    from splitveil.registry import Registry

    known = inspect.signature(Registry(kind).get(name)).parameters
    network = CHECKED_NETWORKS.get(name, "conv_normN1C32")
    chosen = {key: value for key, value in {**SMALL, "network": network}.items() if key in known}
    if name == "patrol":
        chosen = {"epoch": 1}
    if kind == "defenses":
        chosen = {key: value for key, value in chosen.items() if key in ("iterations", "epoch")}
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in chosen.items()) if chosen else name


def checks(base: dict[str, Any], only: str, rehearse: bool) -> list[Cell]:
    """Every defense with a small training, every attack with a small run."""
    from splitveil.registry import Registry

    tiny = {**base, "train_size": 500, "test_size": 200, "epochs": 3, "batch_size": 64, **(DIGITS if rehearse else {})}
    options: dict[str, Any] = {"attacked": 5, "tail": False, "check": True}
    linear = gpu_cell.TINY[:1]
    found = []
    for name in Registry("defenses").names():
        stack = ["gaussian:0.025", small("defenses", name)]
        tiny["bottleneck"] = None if name == "bottleneck" else NETWORK["bottleneck"]
        found.append(Cell(f"check-{name}", {**tiny, "defense": stack}, linear, **options))
    for name in Registry("attacks").names():
        stack = ["gaussian:0.1", "dropout:0.2"]
        found.append(Cell(f"check-attack-{name}", {**tiny, "defense": stack}, (small("attacks", name),), **options))
    return [cell for cell in found if only in cell.name]


def ablation(base: dict[str, Any], seeds: int, epochs: int = 8) -> list[Cell]:
    """The fast recipe at 8 epochs, and what is changed of it."""
    return [
        Cell(
            f"ablation-{name}-s{seed}",
            {**base, "epochs": epochs, "defense": ["gaussian:0.025"], "seed": seed, **change},
            attacks=(),
            protocols=(),
            tail=False,
        )
        for seed in range(seeds)
        for name, change in ABLATION.items()
    ]


def tradeoff(base: dict[str, Any], rehearse: bool) -> list[Cell]:
    """The trade-off curve, seed by seed."""
    found = equal_accuracy_plan.cells()
    if rehearse:
        return [Cell("cem-16-s0", {**base, **found["cem-16-s0"], "epochs": 2}, attacks=gpu_cell.TINY, attacked=5)]
    return [Cell(name, {**base, **change}, attacked=equal_accuracy_plan.ATTACKED) for name, change in found.items()]


def unpacked(archive: Path, scratch: Path) -> Path:
    """The folder of the images of ``archive``."""
    folder = scratch / "images"
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "xf", archive, "-C", folder], check=True)  # Python's own takes three times as long
    return folder / "cifar10"


def run_all(cells: list[Cell], out: Path, done: set[str], workers: int, deadline: float) -> None:
    """Run ``cells`` in their order, ``workers`` at once; a record is written as soon as it is there."""
    todo, running, longest = [cell for cell in cells if cell.name not in done], {}, 0.0
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        while todo or running:
            # What cannot be finished any more is not begun.
            while todo and len(running) < workers and time.monotonic() + longest < deadline:
                cell = todo.pop(0)
                running[pool.submit(gpu_cell.run, cell)] = cell
            left = deadline - time.monotonic()
            if not running or left <= 0:
                break
            ready: set[Future[Any]] = wait(running, timeout=left, return_when=FIRST_COMPLETED).done
            for future in ready:
                cell, record = running.pop(future), future.result()
                longest = max(longest, record["seconds"] if not cell.check else 0.0)
                with (out / "records.jsonl").open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(line(record, len(todo) + len(running)), flush=True)
    finally:
        for process in list((pool._processes or {}).values()):  # those that are cut off by the deadline
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)


def line(record: dict[str, Any], left: int) -> str:
    """A cell in one line."""
    text = f"{record['cell']}: {record['seconds']} s, {left} left"
    if "failed" in record:
        return f"{text}; FAILED {record['failed'][:300]}\n{record['where'][-700:]}"
    if "accuracy" in record:
        text += f"; accuracy {100 * record['accuracy']['mean']:.2f}"
    if "retrained_accuracy" in record:
        text += f", retrained tail {100 * record['retrained_accuracy']['mean']:.2f}"
    for protocol in ("inference_time", "train_time"):
        if protocol in record:
            errors = {label: round(found["mse"]["mean"], 5) for label, found in record[protocol]["attacks"].items()}
            text += f"; {errors}"
    return text


def read(paths: list[Path]) -> set[str]:
    """Names of the cells that ``paths`` have records of; those that failed are run again."""
    lines = [json.loads(text) for path in paths if path.is_file() for text in path.read_text().splitlines()]
    return {record["cell"] for record in lines if "failed" not in record}


def main() -> None:
    """Run the stages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--done", type=Path, nargs="*", default=[], help="records of earlier loans")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--workers", type=int, default=max(1, min(12, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--without", nargs="*", choices=STAGES, default=[])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512, 1024], help="of the profile")
    parser.add_argument("--only", default="", help="of the checks: a part of the name")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "splitveil-gpu")
    parser.add_argument("--rehearse", action="store_true")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    args.out.mkdir(parents=True, exist_ok=True)
    args.scratch.mkdir(parents=True, exist_ok=True)
    os.environ |= {"OMP_NUM_THREADS": "1", "SPLITVEIL_CACHE": str(args.scratch / "cache")}
    root = unpacked(args.archive, args.scratch) if args.archive else args.root
    base: dict[str, Any] = {**NETWORK, "root": str(root.absolute()), "recipe": "fast"}
    base |= DIGITS if args.rehearse else {}
    from splitveil import config

    images = gpu_cell.loaded(config.parse(base).resolve())  # decodes in parallel, once for all
    print(f"images are there after {args.seconds - (deadline - time.monotonic()):.0f} s", flush=True)
    if "profile" not in args.without:
        from gpu_profile import measure

        network = {key: base[key] for key in ("arch", "cut", "bottleneck")}
        found = measure(images, network, *((8,), 1) if args.rehearse else (tuple(args.batches), 20))
        (args.out / "profile.json").write_text(json.dumps(found, indent=1))
        print(json.dumps(found), flush=True)
    cells: list[Cell] = []
    if "check" not in args.without:
        cells += checks(base, args.only, args.rehearse)
    if "ablation" not in args.without:
        cells += ablation(base, 1, 2)[:1] if args.rehearse else ablation(base, 3)
    if "cells" not in args.without:
        cells += tradeoff(base, args.rehearse)
    cells = [Cell(**{**vars(cell), "scratch": args.scratch}) for cell in cells]
    run_all(cells, args.out, read([args.out / "records.jsonl", *args.done]), args.workers, deadline)
    print(f"stopped after {args.seconds - (deadline - time.monotonic()):.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
