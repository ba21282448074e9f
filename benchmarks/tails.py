"""What does the int8 tail save? Bytes, and processor time of one thread for an image, beside the same in float32.

    splitveil export RUN --codec uint8 --out bundle
    splitveil export RUN --codec uint8 --tail int8 --out bundle8
    python benchmarks/tails.py bundle bundle8

Times are the median of the repeats, both tails in turn. Accuracy and agreement are those that the export has measured.
Writes benchmarks/tails.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from splitveil import runs
from splitveil.deploy import bundle
from splitveil.serving.tail import Run, session
from splitveil.storage.files import write_json


def milliseconds(run: Run, wires: np.ndarray, batch: int) -> float:
    """Return the processor time for an image."""
    started = time.process_time()
    for at in range(0, len(wires), batch):
        run(wires[at : at + batch])
    return 1000 * (time.process_time() - started) / len(wires)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fp32", type=Path)
    parser.add_argument("int8", type=Path)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    opened = {"fp32": bundle.read(args.fp32), "int8": bundle.read(args.int8)}
    wire = opened["fp32"].wire["wire"]
    wires = np.random.default_rng(0).integers(0, 256, (args.images, *wire["shape"]), np.uint8)
    tails = {name: session(one.models["cloud"]) for name, one in opened.items()}
    found: dict[str, Any] = {"bytes": {name: len(one.models["cloud"]) for name, one in opened.items()}}
    found["measured"] = opened["int8"].wire["measured"].get("int8_tail")
    for batch in args.batches:
        times: dict[str, list[float]] = {name: [] for name in tails}
        for _ in range(args.repeats):
            for name, run in tails.items():
                times[name].append(milliseconds(run, wires, batch))
        middle = {name: round(statistics.median(found), 3) for name, found in times.items()}
        found[f"milliseconds_in_batches_of_{batch}"] = {**middle, "ratio": round(middle["fp32"] / middle["int8"], 2)}
    print(json.dumps(found, indent=2))
    command = f"python benchmarks/tails.py BUNDLE BUNDLE8 --images {args.images} --repeats {args.repeats}"
    write_json(args.out, {**found, "machine": runs.environment(), "command": command})


if __name__ == "__main__":
    main()
