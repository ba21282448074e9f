"""Speed of the white-box optimization: 128 images at once against a loop over single images, in one run.

    python benchmarks/rmle_speed.py [--run runs/attacks/gaussian] [--images 128] [--steps 1000] [--rounds 3]

Each round optimizes one image alone and then all at once, for the same steps; the ratio is of images per second within
a round. Writes benchmarks/rmle_speed.json.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from splitveil import runs
from splitveil.attacks.base import Victim
from splitveil.attacks.rmle import RmleAttack
from splitveil.data import Access, to_float
from splitveil.storage.files import write_json


def main() -> None:
    """Time both, print the ratio, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/attacks/gaussian"))
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    run = runs.Run.open(args.run)
    images = runs.load_images(run.settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = run.model(images).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    victim, rng = Victim(model, frozenset(Access)), torch.Generator(device).manual_seed(0)
    attack = RmleAttack(steps=args.steps, tv=0.1, l2=0.3)
    attack.fit(victim, images.test, rng)
    wire = victim.query(to_float(images.train.images[: args.images].to(device)), rng)
    attack.reconstruct(wire[:1])  # the first call of a process pays for more
    seconds = {"single": [], "batch": []}
    for i in range(args.rounds):
        for name, part in (("single", wire[i : i + 1]), ("batch", wire)):
            start = time.perf_counter()
            attack.reconstruct(part)
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
    ratios = [args.images * one / all_ for one, all_ in zip(seconds["single"], seconds["batch"], strict=True)]
    record = {
        "images": args.images,
        "steps": args.steps,
        "images_per_second": args.images / statistics.median(seconds["batch"]),
        "single_images_per_second": 1 / statistics.median(seconds["single"]),
        "ratio": {"median": statistics.median(ratios), "all": ratios},
        "threads": torch.get_num_threads(),
        "machine": runs.environment(),
        "command": "python " + " ".join(sys.argv),
    }
    write_json(args.out, record)
    print(
        f"{args.images} images, {args.steps} steps: {record['images_per_second']:.2f} images/s at once, "
        f"{record['single_images_per_second']:.2f} one by one: {record['ratio']['median']:.1f} times as fast"
    )


if __name__ == "__main__":
    main()
