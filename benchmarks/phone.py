"""The phone's program of a bundle beside its ONNX file: bytes, equal codes, processor time of an image.

    pip install executorch
    splitveil export RUN --out BUNDLE --phone
    python benchmarks/phone.py BUNDLE [--root data/cifar10] [--images 1000]

Both run here, on one thread, on CIFAR-10's test images and the same random numbers. It was not run on a phone.
Writes benchmarks/phone.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from executorch.runtime import Runtime

from splitveil import runs
from splitveil.data import load
from splitveil.deploy.graphs import Session
from splitveil.storage.files import write_json
from splitveil_edge import noise
from splitveil_edge.bundle import read


def main() -> None:
    """Compare, write the record, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--images", type=int, default=1000)
    given = parser.parse_args()
    device = read(given.bundle / "device")
    program = (given.bundle / "device" / "encoder.pte").read_bytes()
    method = Runtime.get().load_program(program).load_method("forward")
    session = Session(device.encoder)
    images = load("cifar10", root=given.root).test.images[: given.images].permute(0, 2, 3, 1).contiguous()
    equal = total = 0
    seconds = {"executorch": 0.0, "onnxruntime": 0.0}
    for image in images.split(1):
        drawn = [torch.from_numpy(noise.draw(one.kind, (1, *one.shape), one.high)) for one in device.draws]
        began = time.process_time()
        phone = method.execute([image, *drawn])[0]
        middle = time.process_time()
        wire = session({"image": image, **{one.name: n for one, n in zip(device.draws, drawn, strict=True)}})
        seconds["executorch"] += middle - began
        seconds["onnxruntime"] += time.process_time() - middle
        equal, total = equal + int((phone == wire).sum()), total + wire.numel()
    record = {
        "command": "python benchmarks/phone.py BUNDLE",
        "environment": runs.environment(),
        "bytes": {"encoder.pte": len(program), "encoder.onnx": len(device.encoder)},
        "images": len(images),
        "equal_bytes_of_the_wire": equal / total,
        "cpu_ms": {name: 1000 * value / len(images) for name, value in seconds.items()},
    }
    write_json(Path(__file__).with_suffix(".json"), record)
    print({**record, "threads": torch.get_num_threads(), "numpy": np.__version__})


if __name__ == "__main__":
    main()
