"""Speed of the linear attack's fit: the primal system solved for every ridge against the form in use, in one run.

    OMP_NUM_THREADS=1 python benchmarks/linear_speed.py [--images 90 81] [--columns 4096 8192] [--pixels 3072]

Each form runs in a process of its own, so that its peak memory is its own; looks are four, as the attack's default.
Writes benchmarks/linear_speed.json.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from splitveil import runs
from splitveil.attacks._ridge import JITTER, Ridge, Rows
from splitveil.attacks.linear import RIDGES
from splitveil.storage.files import write_json

LOOKS = 4


def primal(parts: list[list[torch.Tensor]], ridges: tuple[float, ...]) -> None:
    """The form in use before: one dense solve of the whole wire's size for each ridge."""
    z, x = (torch.cat(side) for side in zip(*parts, strict=True))
    z = torch.cat([z, torch.ones_like(z[:, :1])], 1).double()
    gram, cross = z.T @ z, z.T @ x.double()
    for ridge in ridges:
        penalty = torch.full((len(gram),), ridge, dtype=gram.dtype)
        penalty[-1] = 0
        jitter = JITTER * torch.eye(len(gram), dtype=gram.dtype)
        weights = torch.linalg.solve(gram + penalty.diag() + jitter, cross).float()
        (z.float() @ weights).clamp(0, 1)


def smaller_space(parts: list[list[torch.Tensor]], ridges: tuple[float, ...]) -> None:
    """The form in use: one eigendecomposition for all ridges."""
    fitted = Ridge(Rows(dual=True, parts=parts))
    projected = fitted.project(parts[0][0])
    for ridge in ridges:
        fitted.predict(projected, ridge).clamp(0, 1)
    fitted.weights(ridges[0])


FORMS = {"primal": primal, "smaller_space": smaller_space}


def measure(form: str, images: int, columns: int, pixels: int) -> dict[str, float]:
    """Seconds and peak memory of the search for the ridge and of the regression from all images."""
    rng = torch.Generator().manual_seed(0)
    rows = [torch.randn(images, columns, generator=rng) for _ in range(LOOKS)]
    x = torch.rand(images, pixels, generator=rng)
    start = time.perf_counter()
    held = images // 5
    FORMS[form]([[z[held:], x[held:]] for z in rows], RIDGES)
    FORMS[form]([[z, x] for z in rows], (1.0,))
    seconds = time.perf_counter() - start
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9}


def main() -> None:
    """Time both, print the ratios, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[90, 81])
    parser.add_argument("--columns", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--pixels", type=int, default=3072)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    if args.form:
        print(json.dumps(measure(args.form, args.images[0], args.columns[0], args.pixels)))
        return
    cases = []
    for images, columns in zip(args.images, args.columns, strict=True):
        case = {"images": images, "columns": columns, "looks": LOOKS, "pixels": args.pixels}
        for form in FORMS:
            sizes = ["--images", str(images), "--columns", str(columns), "--pixels", str(args.pixels)]
            command = [sys.executable, __file__, "--form", form, *sizes]
            case[form] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        case["ratio"] = case["primal"]["seconds"] / case["smaller_space"]["seconds"]
        cases.append(case)
        print(
            f"{images} images, {columns} values: {case['primal']['seconds']:.1f} s before, "
            f"{case['smaller_space']['seconds']:.2f} s now: {case['ratio']:.0f} times as fast; "
            f"{case['smaller_space']['peak_gb']:.2f} GB at most",
            flush=True,
        )
        record = {"cases": cases, "threads": torch.get_num_threads(), "machine": runs.environment()}
        write_json(args.out, {**record, "command": "python benchmarks/linear_speed.py " + " ".join(sys.argv[1:])})


if __name__ == "__main__":
    main()
