"""Error against accuracy: more noise beside noise with CEM, on 5,000 CIFAR-10 images.

    python benchmarks/tradeoff.py --root data/cifar10 --out runs/tradeoff [--jobs 2] [--only PATTERN]

Every cell is a run folder; finished cells are skipped, a stopped one resumes. Writes OUT/tradeoff.json and .png.
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
    plan += [cem("released", 16), noise(0.1), cem("bound", 1.6), cem("released", 4), noise(0.8)]
    plan += [noise(0.2, 1), cem("bound", 16, 1), noise(0.2, 2), cem("bound", 16, 2)]
    plan += [cem("bound", 0.5), cem("released", 0.5), noise(0.05)]
    return dict(plan)


def run_cell(job: tuple[str, dict[str, Any], Path, Path, int]) -> dict[str, Any]:
    """Train and attack one cell, or read what it left."""
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
    row = {"cell": name, "accuracy": summary["accuracy"], "leakage_nats": summary["leakage_nats"], "epoch": summary["epoch"]}
    run = runs.Run.open(folder)
    for text in ATTACKS:
        spec = config.Spec.model_validate(text)
        file = folder / "attacks" / spec.name / "summary.json"
        if not file.is_file():
            attack_run(run, spec, images, attacker_size=ATTACKER_SIZE, attacked=ATTACKED)
        found = json.loads(file.read_text())
        row |= {"baseline_mse": found["baseline_mse"]}
        row[spec.name] = {key: found[key] for key in ("mse", "ssim", "psnr")}
    print(json.dumps({"cell": name, "accuracy": row["accuracy"]["mean"], "linear": row["linear"]["mse"]["mean"],
                      "decoder": row["decoder"]["mse"]["mean"], "leakage": row["leakage_nats"]}), flush=True)  # fmt: skip
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/tradeoff"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="*", help="names of the cells to run, with * and ?")
    args = parser.parse_args()
    plan = {name: changes for name, changes in cells().items() if fnmatch.fnmatch(name, args.only)}
    if not plan:
        sys.exit(f"no cell matches {args.only}; there are: {', '.join(cells())}")
    jobs = [(name, changes, args.root, args.out, args.threads) for name, changes in plan.items()]
    with multiprocessing.get_context("spawn").Pool(args.jobs, maxtasksperchild=1) as pool:
        rows = list(pool.imap(run_cell, jobs, chunksize=1))
    from splitveil.files import write_json

    write_json(args.out / "tradeoff.json", rows)


if __name__ == "__main__":
    main()
