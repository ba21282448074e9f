"""How long the report of a large bench takes: 1,000 SYNTHETIC cells, written, reported and opened.

    python benchmarks/report_scale.py [--cells 1000] [--out DIR] [--browser chromium]

The records have the shape and size of real ones (two attacks, 500 attacked and 10,000 test images, 60 epochs,
pictures), but every figure in them is drawn from a formula: nothing on that page says anything about a defense. Prints
the seconds of the build, the size of the page and, where a Chromium is found, what its console said.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from splitveil.pictures import save_arrays

ATTACKS = {"linear": {"linear": {"looks": 4}}, "decoder": {"decoder": {"epochs": 50, "network": "res_normN8C64"}}}
FAMILIES = (None, "dropout:0.2", "nopeek:0.5", "adversarial:0.3", "hsic:0.05")
SIGMAS, WEIGHTS = (0.025, 0.05, 0.1, 0.2, 0.4), (0, 1.6, 4, 16)
IMAGES, TEST_IMAGES, EPOCHS, SHEETS = 500, 10_000, 60, 24
CEILING = 0.055


def main() -> None:
    """Parse, write, build, open."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="an empty folder, kept; else a temporary one")
    parser.add_argument("--browser", default="chromium")
    args = parser.parse_args()
    folder = args.out or Path(tempfile.mkdtemp(prefix="splitveil-scale-"))
    try:
        start = time.perf_counter()
        write(folder, args.cells)
        print(f"wrote {args.cells} synthetic cells in {time.perf_counter() - start:.1f} s")
        # A fresh process, as the command is: imports count.
        command = [str(Path(sys.executable).with_name("splitveil")), "report", str(folder)]
        start = time.perf_counter()
        subprocess.run(command, check=True)
        print(f"report: {time.perf_counter() - start:.1f} s, {(folder / 'report.html').stat().st_size / 2**20:.1f} MiB")
        if shutil.which(args.browser):
            browse(args.browser, folder / "report.html")
    finally:
        if not args.out:
            shutil.rmtree(folder)


def write(folder: Path, count: int) -> None:
    """A bench folder of ``count`` synthetic cells, each of its files as a real one's."""
    rng = np.random.default_rng(0)
    combinations = itertools.cycle(itertools.product(FAMILIES, SIGMAS, WEIGHTS))
    seeds = itertools.count()
    per_seed = len(FAMILIES) * len(SIGMAS) * len(WEIGHTS)
    sheets = [_sheet(folder / f"sheet{number}.npz", rng) for number in range(SHEETS)]
    for number, (family, sigma, weight) in zip(range(count), combinations, strict=False):
        seed = number // per_seed if number % per_seed else next(seeds)
        cell = folder / "cells" / f"{number:012x}"
        record = _record(cell.name, family, sigma, weight, seed, rng)
        for label in ATTACKS:
            attack = cell / "attacks" / label
            attack.mkdir(parents=True)
            (attack / "per_image.csv").write_text(_errors(record["attacks"][label]["mse"]["mean"], rng))
            shutil.copy(sheets[(number + seed) % SHEETS], attack / "reconstructions.npz")
            (attack / "summary.json").write_text(json.dumps(_summary(record, label)))
        (cell / "test.csv").write_text(_answers(record["accuracy"]["mean"], rng))
        (cell / "record.json").write_text(json.dumps(record, indent=2))
    for sheet in sheets:
        sheet.unlink()


def _record(name: str, family: str | None, sigma: float, weight: float, seed: int, rng: Any) -> dict[str, Any]:
    defense = [f"gaussian:{sigma}", *([family] if family else []), f"cem:{weight:g}"]
    strength = math.log1p(10 * sigma) + 0.25 * math.log1p(weight) + 0.2 * FAMILIES.index(family)
    accuracy = 0.92 - 0.07 * strength + rng.normal(0, 0.008)
    error = 0.003 * math.exp(0.8 * strength) * rng.lognormal(0, 0.05)
    config = {
        **{"data": "synthetic", "arch": "vgg11_bn_sgm", "cut": 4, "bottleneck": 8, "bottleneck_stride": 1},
        **{"train_size": None, "test_size": None, "protocol": "inference_time", "epochs": EPOCHS, "batch_size": 128},
        "defense": [_spec(text) for text in defense],
        **{"lr": 0.05, "seed": seed, "devices": 1},
    }
    attacks = {
        label: {
            "attack": attack,
            **{"mse": _interval(error * factor, 0.04), "psnr": _interval(-10 * math.log10(error * factor), 0.01)},
            **{"ssim": _interval(0.7 - 8 * error, 0.02), "baseline_mse": 0.06, "flags": [], "seconds": 60.0},
            "class_mean_mse": CEILING,
        }
        for (label, attack), factor in zip(ATTACKS.items(), (1.4, 1.0), strict=True)
    }
    loss = 2.3 * np.exp(-np.arange(EPOCHS) / 12) + rng.normal(0, 0.03, EPOCHS)
    curve = [
        {"epoch": epoch, "loss": float(loss[epoch]), "accuracy_val": float(accuracy * (1 - math.exp(-(epoch + 1) / 6)))}
        for epoch in range(EPOCHS)
    ]
    return {
        **{
            "schema": 1,
            "id": name,
            "grid": "SYNTHETIC: drawn from formulas",
            "axes": {"sigma": sigma, "lambda": weight, "seed": seed},
        },
        **{"config": config, "defense": defense, "protocol": "inference_time", "attacker_size": 1800},
        **{"attacked": IMAGES, "accuracy": _interval(accuracy, 0.006), "epoch": EPOCHS - 1},
        "leakage_nats": 900 / (1 + 20 * sigma) / (1 + 0.2 * weight) * float(rng.lognormal(0, 0.1)),
        **{"wire": {"shape": [8, 8, 8], "bytes": 2048}, "parameters": {"encoder": 85256, "tail": 9689738}},
        "timings": {"train": 600.0, "attacks": dict.fromkeys(ATTACKS, 60.0), "total": 720.0},
        "attacks": attacks,
        "worst_case": {name: attacks["decoder"][name] for name in ("mse", "psnr", "ssim")},
        **{
            "images_digest": f"synthetic-{seed}",
            "test_digest": "synthetic",
            "curve": curve,
            "git": None,
            "attempts": 1,
        },
        "environment": {"splitveil": "synthetic", "torch": "synthetic", "python": "synthetic", "cores": 0, "gpu": None},
        "finished": f"2026-01-01T00:{int(name, 16) // 60 % 60:02d}:{int(name, 16) % 60:02d}+00:00",
    }


def _summary(record: dict[str, Any], label: str) -> dict[str, Any]:
    """What the attack left, of which the record tells."""
    about = {"protocol": record["protocol"], "images_digest": record["images_digest"]}
    images = {"attacker": record["attacker_size"], "attacked": IMAGES}
    return {**record["attacks"][label], **about, "images": images, "curve": [c["loss"] for c in record["curve"]]}


def _spec(text: str) -> dict[str, Any]:
    name, _, value = text.partition(":")
    first = {"gaussian": "sigma", "dropout": "ratio"}.get(name, "weight")
    return {name: {first: float(value), **({"loss": "bound"} if name == "cem" else {})}}


def _interval(mean: float, relative: float) -> dict[str, Any]:
    return {"mean": float(mean), "ci95": [float(mean * (1 - relative)), float(mean * (1 + relative))]}


def _errors(mean: float, rng: Any) -> str:
    errors = mean * rng.lognormal(-0.125, 0.5, IMAGES)
    lines = [f"{i},{e:.8g},{-10 * math.log10(e):.8g},{0.7 - 8 * e:.8g},{CEILING}" for i, e in enumerate(errors)]
    return "\n".join(["image,mse,psnr,ssim,class_mean_mse", *lines]) + "\n"


def _answers(accuracy: float, rng: Any) -> str:
    labels = np.arange(TEST_IMAGES) % 10
    answers = np.where(rng.random(TEST_IMAGES) < accuracy, labels, (labels + 1) % 10)
    lines = [f"{i},{label},{answer}" for i, (label, answer) in enumerate(zip(labels, answers, strict=True))]
    return "\n".join(["image,label,predicted", *lines]) + "\n"


def _sheet(path: Path, rng: Any) -> Path:
    """Ten smooth color pictures above blurred ones: about as hard to compress as photographs."""
    coarse = rng.uniform(0, 255, (10, 3, 9, 9))
    smooth = coarse.repeat(4, 2).repeat(4, 3)[:, :, 2:34, 2:34]
    images = (0.8 * smooth + 0.2 * rng.uniform(0, 255, smooth.shape)).astype(np.uint8)
    save_arrays(path, originals=images, reconstructions=(0.7 * smooth + 30).astype(np.uint8))
    return path


def browse(browser: str, page: Path) -> None:
    """Open the page without a window and print what the console said."""
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"]
        found = subprocess.run(
            [browser, *flags, f"--user-data-dir={profile}", page.absolute().as_uri()],
            capture_output=True,
            text=True,
            timeout=300,
        )
    lines = [line for line in found.stderr.splitlines() if "CONSOLE" in line]
    print(
        f"{browser}: {len(found.stdout) / 2**20:.1f} MiB of page, {len(lines)} lines in the console", *lines, sep="\n"
    )


if __name__ == "__main__":
    main()
