"""What usual estimators of mutual information answer on channels whose leakage is known, beside our bounds.

    python benchmarks/estimators.py [--only 512x300] [--seeds 0 1 2]

Plan. Channels: z = A u with u ~ N(0, I) and a random square matrix A of 10 or 512 rows, a wire z + σ ε, 2,000 images,
σ such that I(z; z_wire) = ½ log det(I + AAᵀ/σ²) is 5, 20, 100 or 300 nats. 300 nats in 10 dimensions are left out:
single precision cannot hold such features (30 nats for each number are more than its digits). Seeds 0, 1, 2; each draws
A, the features and the noise anew. Mean and range over the seeds.

InfoNCE, NWJ, MINE, CLUB   small networks (benchmarks/critics.py), trained on half of the images with fresh noise in
                           every step, the step chosen on a tenth, answered on the other images, as our bounds; InfoNCE
                           compares all of those. "in_sample": on what they were trained on, at the last step
CLUB, known noise          the same difference with the true law N(z, σ² I) instead of a network's
nearest neighbors          npeet-plus 0.2.0 (Kraskov, Stögbauer, Grassberger 2004, k = 3) on all images, in nats, and in
                           10 dimensions also as it answers by default; left out where it is not installed:
                           pip install --target runs/npeet npeet-plus==0.2.0, then PYTHONPATH=runs/npeet
channel, mixture, pairwise, infonce    our bounds, as `splitveil.bound` computes them; as many of them as there are

The networks' form and rate were tried out on seed 0 of two of these channels, in the networks' favor (a separable
critic, which gave NWJ less than 0, was replaced); ours were not. What the record holds already is not computed again.
Writes benchmarks/estimators.json, and prints the table of docs/bounds.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import time
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import critics
import torch

from splitveil import runs
from splitveil.bounds._examples import channel_of
from splitveil.bounds.base import Channel
from splitveil.config import spec_of
from splitveil.registry import Registry
from splitveil.storage.files import write_json

CHANNELS = ((10, 5), (10, 20), (10, 100), (512, 5), (512, 20), (512, 100), (512, 300))
"""Dimensions and nats."""
IMAGES, SEEDS = 2000, (0, 1, 2)
OURS = ("channel", "mixture", "pairwise", "infonce")
NPEET = "npeet-plus"


def neighbors(channel: Channel, rng: torch.Generator) -> dict[str, float]:
    """The nearest-neighbor estimator of npeet-plus on all images."""
    import numpy as np

    mi = import_module("npeet_plus").mi
    laws = [channel.conditional(part) for part in ("fit", "choose", "held_out")]
    z, w = (torch.cat(side).numpy() for side in zip(*((law.mean, law.draw(rng)) for law in laws), strict=True))
    np.random.seed(0)  # noqa: NPY002 (it breaks ties with noise of the global generator)
    found = {"value": float(mi(z, w, base=math.e))}
    return found | ({"by default": float(mi(z, w))} if z.shape[1] <= 10 else {})


def linear_channel(dimension: int, nats: float, seed: int, images: int) -> tuple[Channel, float]:
    """A channel that leaks so much, and its σ."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=rng, dtype=torch.float64) / dimension**0.5
    power = torch.linalg.eigvalsh(mixing @ mixing.T).clamp_min(0)
    low, high = -40.0, 10.0
    for _ in range(100):
        middle = (low + high) / 2
        leaks = float(0.5 * torch.log1p(power * math.exp(-2 * middle)).sum()) > nats
        low, high = (middle, high) if leaks else (low, middle)
    features = torch.randn(images, dimension, generator=rng, dtype=torch.float64) @ mixing.T
    sigma = math.exp(low)
    return channel_of(features.float(), torch.zeros(images, dtype=torch.long), sigma, rng), sigma


def installed() -> str | None:
    """Version of npeet-plus, or None."""
    try:
        return metadata.version(NPEET)
    except metadata.PackageNotFoundError:
        return None


def measure(case: dict[str, Any], images: int = IMAGES) -> None:
    """Let all estimators that have not answered yet do so about one channel."""
    channel, case["sigma"] = linear_channel(case["dimension"], case["nats"], case["seed"], images)
    law, known = channel.conditional("held_out"), Registry("bounds").names()

    def ours(name: str, rng: torch.Generator) -> dict[str, Any]:
        estimates = [e.as_dict() for e in spec_of(name, "bounds").make("bounds").estimate(channel, rng)]
        return {"value": estimates[0]["value"], "estimates": estimates}

    calls: dict[str, Callable[[torch.Generator], dict[str, Any]]] = {}
    calls |= {name: functools.partial(ours, name) for name in OURS if name in known}
    calls |= {name: functools.partial(critics.trained, name, channel) for name in critics.ESTIMATORS}
    calls["CLUB, known noise"] = lambda rng: {"value": critics.club(law.mean, law.variance, law.draw(rng))}
    if installed():
        calls["nearest neighbors"] = functools.partial(neighbors, channel)
    for name, call in calls.items():
        if name not in case["found"]:
            start = time.process_time()
            found = call(torch.Generator().manual_seed(case["seed"]))
            case["found"][name] = found | {"cpu_seconds": round(time.process_time() - start, 2)}
    case["found"] = {name: case["found"][name] for name in calls if name in case["found"]}


def summary(cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and range over the seeds, by channel and estimator."""
    rows: dict[str, dict[str, Any]] = {}
    for case in cases:
        key = f"{case['dimension']}x{case['nats']}"
        for name, found in case["found"].items():
            rows.setdefault(key, {}).setdefault(name, []).append(found["value"])
    return {
        key: {
            name: {"mean": statistics.fmean(v), "lo": min(v), "hi": max(v), "seeds": len(v)} for name, v in row.items()
        }
        for key, row in rows.items()
    }


def number(value: float) -> str:
    """Three digits, in the way that is shortest to read."""
    if abs(value) >= 1000:
        return f"{value:.1e}" if abs(value) >= 1e5 else f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 5e-4 else "0"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """The table of the docs: one column for each channel."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    heads = [key.replace("x", " numbers, ") + " nats" for key in rows]
    lines = ["| estimator | " + " | ".join(heads) + " |", "|---" * (len(rows) + 1) + "|"]
    for name in names:
        values = [row.get(name) for row in rows.values()]
        shown = [f"{number(v['mean'])} [{number(v['lo'])}, {number(v['hi'])}]" if v else "–" for v in values]
        lines.append(f"| {name} | " + " | ".join(shown).replace("-", "−") + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help="channels, as 512x300", default=[f"{d}x{n}" for d, n in CHANNELS])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not installed():
        print(f"{NPEET} is not installed, so its row is left out; see --help", flush=True)
    settings = {name.lower(): getattr(critics, name) for name in ("STEPS", "EVERY", "BATCH", "WIDTH", "RATE", "SHIFTS")}
    settings["images"] = args.images
    before = json.loads(args.out.read_text()) if args.out.is_file() else {}
    kept = before["cases"] if before.get("settings") == settings else []
    cases = {(case["dimension"], case["nats"], case["seed"]): case for case in kept}
    for seed in args.seeds:
        for only in args.only:
            dimension, nats = (int(part) for part in only.split("x"))
            new = {"dimension": dimension, "nats": nats, "seed": seed, "found": {}}
            case = cases.setdefault((dimension, nats, seed), new)
            measure(case, args.images)
            shown = ", ".join(f"{name} {number(found['value'])}" for name, found in case["found"].items())
            print(f"{dimension} numbers, {nats} nats, seed {seed}: {shown}", flush=True)
            rows = [cases[key] for key in sorted(cases)]
            record = {
                "command": "python benchmarks/estimators.py",
                "settings": settings,
                "machine": {**runs.environment(), "threads": 1, NPEET: installed()},
                "summary": summary(rows),
                "cases": rows,
            }
            write_json(args.out, record)
    print(table(summary([cases[key] for key in sorted(cases)])))


if __name__ == "__main__":
    main()
