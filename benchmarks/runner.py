"""What `splitveil bench` costs beside training and attacking by hand: the same cells, one after the other, on digits.

    python benchmarks/runner.py [--cells 6] [--rounds 2] [--epochs 8] [--beside script]

script    one Python process that loops over the cells: load the images, fit, attack
commands  `splitveil train` and `splitveil attack` for each cell
bench     `splitveil bench --jobs 1`

Each is a process of its own, with one thread; rounds alternate. A way's seconds are those of its fastest round: what
else the machine does only ever makes a round slower. The processor's seconds are counted too: other work disturbs them
less. Writes benchmarks/runner.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from splitveil.files import write_json
from splitveil.runs import environment

MAIN = "from splitveil.cli import main; main()"
SCRIPT = """
import sys
from pathlib import Path

import torch

from splitveil import runs
from splitveil.bench.grid import load_grid
from splitveil.evaluation import attack_run
from splitveil.training import fit

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


def script(file: Path, cells: int, out: Path) -> None:
    run("-c", SCRIPT, file, out)


def commands(file: Path, cells: int, out: Path) -> None:
    config = out / "config.yaml"
    out.mkdir()
    config.write_text(yaml.safe_dump(yaml.safe_load(file.read_text())["base"]))
    for seed in range(cells):
        run("-c", MAIN, "train", "--config", config, "--seed", seed, "--out", out / str(seed))
        run("-c", MAIN, "attack", out / str(seed), "--attack", ATTACK, "--attacked", 36)


def bench(file: Path, cells: int, out: Path) -> None:
    run("-c", MAIN, "bench", file, "--out", out, "--jobs", 1)


WAYS: dict[str, Callable[[Path, int, Path], None]] = {"script": script, "commands": commands, "bench": bench}


def run(*tokens: object) -> None:
    """Python in a process of its own, with one thread."""
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, tokens)]
    subprocess.run(command, check=True, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def processor_seconds() -> float:
    """Of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def work_seconds(out: Path) -> float:
    """What the cells themselves say that training and attacks took."""
    records = [json.loads(path.read_text()) for path in out.glob("cells/*/record.json")]
    return sum(r["timings"]["train"] + sum(r["timings"]["attacks"].values()) for r in records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--beside", nargs="+", choices=["script", "commands"], default=["script", "commands"])
    args = parser.parse_args()
    ways = {name: way for name, way in WAYS.items() if name in (*args.beside, "bench")}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "runner.yaml"
        file.write_text(yaml.safe_dump(grid(args.cells, args.epochs)))
        for number in range(args.rounds):
            for name, way in ways.items():
                out, start, before = Path(folder) / f"{name}{number}", time.perf_counter(), processor_seconds()
                way(file, args.cells, out)
                row = {"seconds": time.perf_counter() - start, "processor": processor_seconds() - before}
                rows[name].append(row | ({"work": work_seconds(out)} if name == "bench" else {}))
                print(
                    f"round {number + 1}, {name}: {row['seconds']:.1f} s, processor {row['processor']:.1f} s",
                    flush=True,
                )
    best = {name: {key: min(row[key] for row in rows[name]) for key in rows[name][0]} for name in ways}
    found: dict[str, Any] = {"cells": args.cells, "rounds": rows, "best": best, "added per cell": {}}
    for name in args.beside:
        added = {key: (best["bench"][key] - best[name][key]) / args.cells for key in ("seconds", "processor")}
        found["added per cell"][name] = added
        ratio, whole = best["bench"]["seconds"] / best[name]["seconds"], best[name]["seconds"] / args.cells
        more = ", ".join(f"{key} {value:+.2f} s" for key, value in added.items())
        print(f"bench / {name}: {ratio:.3f}; a cell of {whole:.1f} s takes more: {more}")
    found |= {"command": "python " + " ".join(sys.argv), "machine": environment()}
    write_json(Path(__file__).with_suffix(".json"), found)


if __name__ == "__main__":
    main()
