"""What `splitveil bench` costs beside training and attacking by hand: the same cells, one after the other, on digits.

    python benchmarks/runner.py [--cells 6] [--rounds 2] [--epochs 8] [--beside script commands]

script    one Python process that loops over the cells: load the images, fit, attack
commands  `splitveil train` and `splitveil attack` for each cell
bench     `splitveil bench --jobs 1`

All ways of a round run at the same time, each with one thread, so that whatever else the machine does slows them alike.
The processor's seconds are counted too. Writes benchmarks/runner.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from splitveil.runs import environment
from splitveil.storage.files import write_json

MAIN = "from splitveil.cli import main; main()"
SCRIPT = """
import sys
from pathlib import Path

import torch

from splitveil import runs
from splitveil.bench.grid import load_grid
from splitveil.evaluation.evaluate import attack_run
from splitveil.training.trainer import fit

torch.set_num_threads(1)
for cell in load_grid(sys.argv[1]).cells:
    images = runs.load_images(cell.settings)
    folder = Path(sys.argv[2]) / cell.id
    fit(cell.settings, images, folder)
    for label, spec in cell.attacks.items():
        attack_run(runs.Run.open(folder), spec, images, label=label, attacked=cell.attacked)
"""
ATTACK = "decoder:epochs=6,network=res_normN1C16,batch_size=64"


def grid(cells: int, epochs: int) -> dict[str, Any]:
    """Small cells: what the runner adds to each does not depend on their length."""
    network = {"data": "digits", "train_size": 600, "arch": "resnet20_sgm", "cut": 5, "bottleneck": 2}
    base = {**network, "epochs": epochs, "defense": ["gaussian:0.05", "cem:8"]}
    return {"name": "runner", "base": base, "seeds": cells, "attacks": [ATTACK], "attacked": 36}


def script(file: Path, cells: int, out: Path) -> float:
    return run("-c", SCRIPT, file, out)


def commands(file: Path, cells: int, out: Path) -> float:
    config, used = out / "config.yaml", 0.0
    out.mkdir()
    config.write_text(yaml.safe_dump(yaml.safe_load(file.read_text())["base"]))
    for seed in range(cells):
        used += run("-c", MAIN, "train", "--config", config, "--seed", seed, "--out", out / str(seed))
        used += run("-c", MAIN, "attack", out / str(seed), "--attack", ATTACK, "--attacked", 36)
    return used


def bench(file: Path, cells: int, out: Path) -> float:
    return run("-c", MAIN, "bench", file, "--out", out, "--jobs", 1)


WAYS: dict[str, Callable[[Path, int, Path], float]] = {"script": script, "commands": commands, "bench": bench}


def run(*tokens: object) -> float:
    """Python in a process of its own, with one thread; the processor's seconds, those of its children included."""
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, tokens)]
    process = subprocess.Popen(command, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return used.ru_utime + used.ru_stime


def timed(name: str, file: Path, cells: int, out: Path) -> dict[str, float]:
    """One way of one round."""
    start = time.perf_counter()
    used = WAYS[name](file, cells, out)
    row = {"seconds": time.perf_counter() - start, "processor": used}
    print(f"{name}: " + ", ".join(f"{key} {value:.1f} s" for key, value in row.items()), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--beside", nargs="+", choices=["script", "commands"], default=["script"])
    args = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in (*args.beside, "bench")}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor() as pool:
        file = Path(folder) / "runner.yaml"
        file.write_text(yaml.safe_dump(grid(args.cells, args.epochs)))
        for number in range(args.rounds):
            tasks = {n: pool.submit(timed, n, file, args.cells, Path(folder) / f"{n}{number}") for n in rows}
            for name, task in tasks.items():
                rows[name].append(task.result())
    found: dict[str, Any] = {"cells": args.cells, "epochs": args.epochs, "rounds": rows, "beside": {}}
    for name in args.beside:
        totals = {way: {key: sum(row[key] for row in rows[way]) for key in rows[way][0]} for way in (name, "bench")}
        count = args.cells * args.rounds
        about = {key: (totals["bench"][key] - totals[name][key]) / count for key in ("seconds", "processor")}
        about = {f"{key} more per cell": value for key, value in about.items()}
        about["ratio of seconds"] = totals["bench"]["seconds"] / totals[name]["seconds"]
        about["seconds per cell"] = totals[name]["seconds"] / count
        found["beside"][name] = about
        print(f"bench beside {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in about.items()))
    found |= {"command": "python " + " ".join(sys.argv), "machine": environment()}
    write_json(Path(__file__).with_suffix(".json"), found)


if __name__ == "__main__":
    main()
