"""Does noise ever repeat, and what happens where it comes from a seed?

    python benchmarks/freshness.py BUNDLE [--wires 1000000] [--seeds 65536]

1. Wires of one image, by the edge client's own code without its memory, from two processes that fork half-way: a hash
   of each is kept, and equal ones are counted.
2. The search for a seed, by a whitened matched filter among `--seeds` seeds: on wires of this encoder whose noise had
   one of these seeds, and on wires as the client makes them, whose noise has none.
3. A graph that draws its own noise (RandomNormalLike with a seed): whoever has the file runs it and takes the noise
   off.

Writes benchmarks/freshness.json.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitveil_edge import bundle, encode, measure, noise

DIGEST = 16  # bytes of a hash: 10⁶ different wires collide by chance with probability 10⁻²⁷
SIGMA, VALUES, WIRES = 0.1, 512, 8  # of the graph that draws its own noise


def digests(wires: encode.Wires, images: NDArray[np.uint8], count: int) -> bytes:
    """Return the hashes of ``count`` wires of the same images, one after the other."""
    found = bytearray()
    while len(found) < DIGEST * count:
        for wire in wires.of(images)[: count - len(found) // DIGEST]:
            found += hashlib.blake2b(wire, digest_size=DIGEST).digest()
    return bytes(found)


def forked(wires: encode.Wires, images: NDArray[np.uint8], count: int) -> bytes:
    """Return the hashes of wires that a process and its child made at the same time, of the same state."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as out:
                out.write(digests(wires, images, count // 2))
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    own = digests(wires, images, count - count // 2)
    with os.fdopen(reading, "rb") as file:
        childs = file.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the child has failed")
    return own + childs


def make(path: Path, count: int) -> bytes:
    """Return the hashes of one process: half of them before it forks, and half by it and its child."""
    found = bundle.read(path)
    wires = encode.Wires(found, 0)
    images = np.full((encode.AT_ONCE, *found.image), 128, np.uint8)
    return digests(wires, images, count // 2) + forked(wires, images, count - count // 2)


def repeats(path: Path, count: int) -> dict[str, Any]:
    """Count equal wires among those of two processes, both of which fork."""
    command = [sys.executable, __file__, str(path), "--digests", str(count // 2)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        own = make(path, count - count // 2)
        assert other.stdout is not None
        found = np.frombuffer(own + other.stdout.read(), np.dtype((np.void, DIGEST)))
    if other.returncode:
        raise RuntimeError("the other process has failed")
    return {"wires": len(found), "processes": 2, "forks": 2, "repeated": len(found) - len(np.unique(found))}


def search(path: Path, seeds: int, looks: int = 8, known: int = 3000) -> dict[str, Any]:
    """Look for the seed of the noise on wires of unknown images: where it has one, and where it has none.

    The attacker knows mean m and covariance C of wires, from images of its own, and scores the noise n of each seed by
    the matched filter a·n/|a|, a = C⁻¹(wire − m): N(0, 1) for a wrong seed. To have a seed, the encoder is given the
    noise of numpy's MT19937; to have none, it is run as the client runs it.
    """
    device = bundle.read(path)
    if [draw.kind for draw in device.draws] != ["normal"] or device.codec != "uint8":
        raise SystemExit("expected a bundle whose only draw is normal and whose codec is uint8")
    encoder = encode.Encoder(device)
    wires = encoder(measure.random_images(known, device.image)).astype(np.float64)
    mean, precision = wires.mean(0), np.linalg.inv(np.cov(wires.T) + 1e-3 * np.eye(device.length))

    def scores(wire: NDArray) -> NDArray:
        filtered = precision @ (wire - mean)
        return candidates @ (filtered / np.linalg.norm(filtered))

    start = int.from_bytes(os.urandom(4), "little") % (2**32 - seeds)
    candidates = np.empty((seeds, device.length), np.float32)
    for i in range(seeds):
        candidates[i] = seeded(start + i, device.length)
    images = measure.random_images(2 * looks, device.image)
    right = [int.from_bytes(os.urandom(4), "little") % seeds for _ in range(looks)]
    held = [
        scores(_with_seed(encoder, image[None], start + seed))
        for image, seed in zip(images[:looks], right, strict=True)
    ]
    fresh = [float(scores(wire).max()) for wire in encoder(images[looks:])]
    own = [float(score[seed]) for score, seed in zip(held, right, strict=True)]
    return {
        "seeds": seeds,
        "wires": looks,
        "with_a_seed": {
            "found": sum(int(score.argmax() == seed) for score, seed in zip(held, right, strict=True)),
            "score_of_the_right_seed": {"mean": float(np.mean(own)), "lowest": min(own)},
        },
        "as_the_client_draws": {"best_score": {"mean": float(np.mean(fresh)), "highest": max(fresh)}},
        "best_of_wrong_seeds_is_about": float(np.sqrt(2 * np.log(seeds))),
    }


def seeded(seed: int, count: int) -> NDArray:
    """Return noise that a seed of 32 bits decides."""
    return np.random.RandomState(seed).standard_normal(count)


def _with_seed(encoder: encode.Encoder, image: NDArray[np.uint8], seed: int) -> NDArray:
    """Return the wire of an image whose noise has a seed."""
    draw, kept = encoder.device.draws[0], noise.draw
    noise.draw = lambda *_: seeded(seed, encoder.device.length).reshape(1, *draw.shape).astype(np.float32)
    try:
        return encoder(image)[0]
    finally:
        noise.draw = kept


def baked() -> dict[str, Any]:
    """Take the noise off wires of a graph that draws it from a seed, with nothing but the file."""
    stripped = _stripped({"seed": 7.0})
    return {
        "wires": WIRES,
        "sigma": SIGMA,
        "largest_error_after_stripping": stripped,
        "the_same_by_a_second_session_of_one_process_without_a_seed": _stripped({}),
    }


def _stripped(seed: dict[str, float]) -> float:
    """Return the largest error of features from which another session of the same file has taken the noise."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("RandomNormalLike", ["z"], ["n"], scale=SIGMA, **seed),
        helper.make_node("Add", ["z", "n"], ["wire"]),
    ]
    given, made = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", VALUES])] for name in ("z", "wire"))
    graph = helper.make_graph(nodes, "baked", given, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    device, attacker = (onnxruntime.InferenceSession(model.SerializeToString()) for _ in range(2))
    features = np.random.default_rng(1).standard_normal((WIRES, 1, VALUES)).astype(np.float32)
    wires = [device.run(None, {"z": feature})[0] for feature in features]
    empty = np.zeros((1, VALUES), np.float32)
    errors = [
        np.abs(wire - attacker.run(None, {"z": empty})[0] - z).max() for wire, z in zip(wires, features, strict=True)
    ]
    return float(max(errors))


def main() -> None:
    """Do all three, print them, leave the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="BUNDLE/device")
    parser.add_argument("--wires", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=2**16)
    parser.add_argument("--digests", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    if args.digests:
        sys.stdout.buffer.write(make(args.bundle, args.digests))
        return
    from splitveil import runs
    from splitveil.storage.files import write_json

    start = time.perf_counter()
    found = bundle.read(args.bundle)
    record = {
        "model": found.model_name,
        "bytes_per_wire": found.bytes_per_image,
        "wires": repeats(args.bundle, args.wires),
        "seed_search": search(args.bundle, args.seeds),
        "noise_in_the_graph": baked(),
        "seconds": time.perf_counter() - start,
        "machine": runs.environment(),
        "command": f"python benchmarks/freshness.py BUNDLE --wires {args.wires} --seeds {args.seeds}",
    }
    for name in ("wires", "seed_search", "noise_in_the_graph"):
        print(f"{name}: {record[name]}")
    write_json(args.out, record)


if __name__ == "__main__":
    main()
