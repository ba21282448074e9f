"""Time of every bound on 10,000 images whose features have 512 values.

    python benchmarks/bounds_cost.py [--threads 2] [--images 10000] [--pixels 32] [--outputs 512]

Random smooth images of ten classes, a linear encoder and Gaussian noise; for `dp` Laplace noise of `local_dp`. The
features are made before the clock starts, as all bounds share them; nothing else is shared. Beside the seconds stand
those of the processor, summed over the threads: on a machine with other work they are the better figure.
`infonce_trained` is `infonce` behind `dropout`, where it trains. Writes benchmarks/bounds_cost.json.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

from splitveil import runs
from splitveil.bounds.base import PARTS, Channel
from splitveil.data import Split
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.local_dp import LocalDP
from splitveil.model import SplitModel
from splitveil.registry import Registry
from splitveil.storage.files import write_json

CLASSES, SIGMA = 10, 2.0
TRAINED = "infonce_trained"


def channel_of(name: str, images: int, side: int, outputs: int) -> Channel:
    """Return the channel that a bound is timed on."""
    rng = torch.Generator().manual_seed(0)
    encoder = nn.Linear(3 * side * side, outputs, bias=False)
    encoder.weight.data.copy_(torch.randn(encoder.weight.shape, generator=rng))
    defense = {"dp": LocalDP(), TRAINED: Dropout(0.97)}.get(name, Gaussian(SIGMA))
    model = SplitModel(nn.Sequential(nn.Flatten(), encoder), nn.Identity(), defense=[defense])
    coarse = torch.rand(images, 3, side // 4, side // 4, generator=rng)
    smooth = nn.functional.interpolate(coarse, size=side, mode="bilinear")
    noisy = smooth + 0.02 * torch.randn(smooth.shape, generator=rng)
    pixels = (255 * noisy.clamp(0, 1)).round().to(torch.uint8)
    channel = Channel.of(model, Split(pixels, torch.arange(images) % CLASSES), rng)
    for part in PARTS:
        channel.features(part)
    return channel


def measure(name: str, channel: Channel) -> dict[str, float | str]:
    """Return the seconds of one bound, and what it says."""
    bound = Registry("bounds").get("infonce" if name == TRAINED else name)()
    channel.kept.clear()
    rng = torch.Generator().manual_seed(0)
    start, processor = time.perf_counter(), time.process_time()
    found = bound.estimate(channel, rng)
    seconds = {"seconds": time.perf_counter() - start, "processor_seconds": time.process_time() - processor}
    return {**seconds, "settings": repr(bound), "says": str(found[-1])}


def main() -> None:
    """Time all, print a table, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--pixels", type=int, default=32, help="side of the images")
    parser.add_argument("--outputs", type=int, default=512, help="values on the wire")
    parser.add_argument("--bounds", nargs="+", default=[*Registry("bounds").names(), TRAINED])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    measure("fisher", channel_of("fisher", 100, 4, 8))  # the first derivative loads what all later ones share
    channel, found = channel_of("", args.images, args.pixels, args.outputs), {}
    for name in args.bounds:
        own = channel_of(name, args.images, args.pixels, args.outputs) if name in ("dp", TRAINED) else channel
        found[name] = measure(name, own)
        times = found[name]["seconds"], found[name]["processor_seconds"]
        print(f"{name:10} {times[0]:7.2f} s, of the processor {times[1]:7.2f} s   {found[name]['says']}", flush=True)
    sizes = {"images": args.images, "pixels": 3 * args.pixels**2, "values": args.outputs, "threads": args.threads}
    load = {"load_of_the_machine": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
    command = "python benchmarks/bounds_cost.py " + " ".join(sys.argv[1:])
    write_json(args.out, {"bounds": found, **sizes, **load, "machine": runs.environment(), "command": command.strip()})


if __name__ == "__main__":
    main()
