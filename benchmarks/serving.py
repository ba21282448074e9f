"""A served model beside its bare tail: answers, accuracy, processor time, latency and memory.

    python benchmarks/serving.py BUNDLE [--root data/cifar10] [--requests 4000] [--rounds 5]

Plan, fixed before the first run. BUNDLE was exported from a CIFAR-10 run. The encoder of splitveil-edge makes one wire
of every test image with fresh noise of the operating system.
1. Answers: every wire is asked over HTTP and over gRPC and answered here by the bundle's tail; all logits are compared.
   The accuracy of these answers lies beside the interval that the export measured.
2. Processor time of the server, of one worker: for each image while 1, 8 and 32 clients ask for one image at a time;
   beside it that of the bare tail on one thread, in batches of 1, 4 and 32. "share_of_bare_alone" is that in batches of
   1 over served (the server makes batches of what waits, so it may exceed 1); the goal is 80 % at 32 clients.
3. TLS and a token against neither, in turn, 8 clients: the ratio of processor times; the goal is at most 1.10.
4. Latency of these requests (wall time: it depends on what else the machine does), resident memory of the server.
Figures of 2 and 3 are medians over --rounds, with the smallest and largest. Writes benchmarks/serving.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from splitveil import runs
from splitveil.data import load
from splitveil.deploy import bundle as bundles
from splitveil.serving import inference_pb2, tokens
from splitveil.serving.settings import Settings
from splitveil.statistics.intervals import binomial_ci
from splitveil.storage.files import write_json
from splitveil_edge.bundle import read as read_device
from splitveil_edge.encode import Encoder

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))
import certificates
import served

CLIENTS = (1, 8, 32)
ANSWERED_AT_ONCE = 100
TICKS = os.sysconf("SC_CLK_TCK")
RECORD = Path(__file__).with_suffix(".json")


def processor_seconds(pid: int) -> float:
    """What a process has used of the processors, itself and in the kernel."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def megabytes(pid: int) -> float:
    """Resident memory of a process."""
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS:")]
    return int(line.split()[1]) / 1024


@contextlib.contextmanager
def server(bundle: Path, place: Path, secured: bool, grpc: bool = False) -> Iterator[tuple[served.Running, str]]:
    """A server of one worker, its token ("" for none) and its context."""
    more: dict[str, Any] = {}
    token, context = "", None
    if secured:
        cert, key = certificates.make(place)
        token, _ = tokens.make("load", place / "tokens")
        more = {"tls_cert": str(cert), "tls_key": str(key), "token_file": str(place / "tokens")}
        context = ssl.create_default_context(cafile=str(cert))
    settings = Settings(str(bundle), port=0, grpc_port=0 if grpc else None, **more)
    with served.started(settings, place / "log", context=context) as running:
        yield running, token


class Load:
    """Clients that keep their connections and ask for one image at a time.

    Args:
        running: the server.
        path: of the model.
        token: of the clients; "" for none.
        wires: that they ask about.
    """

    def __init__(self, running: served.Running, path: str, token: str, wires: np.ndarray):
        self.running = running
        more = f"Authorization: Bearer {token}\r\n" if token else ""
        self.requests = []
        for wire in wires:
            body, headers = served.asked(wire[None])
            lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + more
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
            self.requests.append(head.encode() + body)

    def run(self, clients: int, requests: int) -> dict[str, Any]:
        """Processor time of the server for each image in ms, and the seconds of each request."""
        return asyncio.run(self._run(clients, requests))

    async def _run(self, clients: int, requests: int) -> dict[str, Any]:
        seconds: list[float] = []
        left = iter(range(requests))
        pairs = [await self._open() for _ in range(clients)]
        await asyncio.gather(*(self._ask(*pair, iter(range(4)), []) for pair in pairs))  # connections are warm
        before, began = processor_seconds(self.running.process.pid), time.perf_counter()
        await asyncio.gather(*(self._ask(*pair, left, seconds) for pair in pairs))
        wall = time.perf_counter() - began
        used = processor_seconds(self.running.process.pid) - before
        for _, writer in pairs:
            writer.close()
        p50, p99 = np.percentile(seconds, [50, 99])
        return {"cpu_ms": 1000 * used / requests, "p50_ms": 1000 * p50, "p99_ms": 1000 * p99, "per_s": requests / wall}

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        context = self.running.context
        return await asyncio.open_connection(
            "127.0.0.1", self.running.port, ssl=context, server_hostname="localhost" if context else None
        )

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: Iterator[int], seconds: list[float]
    ) -> None:
        for place in left:
            began = time.perf_counter()
            writer.write(self.requests[place % len(self.requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            await reader.readexactly(int(length.partition(b":")[2]))
            seconds.append(time.perf_counter() - began)


def bare(tail: bytes, wires: np.ndarray, size: int, images: int) -> float:
    """Processor time of the tail for an image in ms, in batches of one size, on one thread."""
    session = _session(tail)
    parts = [wires[(i * size) % (len(wires) - size) :][:size] for i in range(max(1, images // size))]
    for part in parts[:5]:
        session.run(None, {"wire": part})
    before = time.process_time()
    for part in parts:
        session.run(None, {"wire": part})
    return 1000 * (time.process_time() - before) / (len(parts) * size)


def _session(tail: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(tail, options, providers=["CPUExecutionProvider"])


def http_answers(running: served.Running, path: str, wires: np.ndarray) -> np.ndarray:
    """Logits of all wires over HTTP."""
    connection, found = running.connect(), []
    for part in np.split(wires, range(ANSWERED_AT_ONCE, len(wires), ANSWERED_AT_ONCE)):
        found.append(served.say(connection, "POST", path, *served.asked(part)).logits)
    return np.concatenate(found)


def grpc_answers(address: str, model: str, wires: np.ndarray) -> np.ndarray:
    """Logits of all wires over gRPC."""
    import grpc

    found = []
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=inference_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=inference_pb2.ModelInferResponse.FromString,
        )
        for part in np.split(wires, range(ANSWERED_AT_ONCE, len(wires), ANSWERED_AT_ONCE)):
            asked = inference_pb2.ModelInferRequest(model_name=model, raw_input_contents=[part.tobytes()])
            asked.inputs.add(name="wire", datatype="UINT8", shape=part.shape)
            answer = infer(asked, timeout=60)
            logits = np.frombuffer(answer.raw_output_contents[0], "<f4")
            found.append(logits.reshape(tuple(answer.outputs[0].shape)))
    return np.concatenate(found)


def answers(bundle: Path, found: bundles.Bundle, wires: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Step 1 of the plan."""
    session = _session(found.models["cloud"])
    local = np.concatenate([session.run(None, {"wire": part})[0] for part in np.array_split(wires, len(wires) // 64)])
    path = f"/v2/models/{found.model_name}/infer"
    with tempfile.TemporaryDirectory() as place, server(bundle, Path(place), False, grpc=True) as (running, _):
        address = running.line.partition("gRPC at ")[2].partition(";")[0]
        doors = {
            "http": http_answers(running, path, wires),
            "grpc": grpc_answers(address, found.model_name, wires),
        }
        resident = megabytes(running.process.pid)
    right = int((local.argmax(1) == labels).sum())
    return {
        "images": len(wires),
        "accuracy": binomial_ci(right, len(wires)).as_dict(),
        "accuracy_at_export": found.wire["measured"]["accuracy_bundle"],
        "equal_logits": {name: float((logits == local).all(1).mean()) for name, logits in doors.items()},
        "largest_difference": {name: float(np.abs(logits - local).max()) for name, logits in doors.items()},
        "server_megabytes": resident,
    }


def middle(values: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": float(np.median(values)), "least": float(min(values)), "most": float(max(values))}


def costs(bundle: Path, found: bundles.Bundle, wires: np.ndarray, requests: int, rounds: int) -> dict[str, Any]:
    """Steps 2 to 4 of the plan."""
    path, tail = f"/v2/models/{found.model_name}/infer", found.models["cloud"]
    rows: dict[str, list[dict[str, Any]]] = {str(clients): [] for clients in CLIENTS}
    pairs: list[float] = []
    alone: dict[str, list[float]] = {"1": [], "4": [], "32": []}
    with (
        tempfile.TemporaryDirectory() as one,
        tempfile.TemporaryDirectory() as other,
        server(bundle, Path(one), False) as (plain, _),
        server(bundle, Path(other), True) as (secured, token),
    ):
        open_door, locked = Load(plain, path, "", wires), Load(secured, path, token, wires)
        for _ in range(rounds):
            for size in alone:
                alone[size].append(bare(tail, wires, int(size), requests // 4))
            for clients in CLIENTS:
                rows[str(clients)].append(open_door.run(clients, requests))
            eight = open_door.run(8, requests)["cpu_ms"], locked.run(8, requests)["cpu_ms"]
            pairs.append(eight[1] / eight[0])
        resident = megabytes(plain.process.pid)
    bare_ms = {size: middle(values) for size, values in alone.items()}
    return {
        "bare_cpu_ms": bare_ms,
        "served": {
            clients: {
                **{name: middle([one[name] for one in some]) for name in some[0]},
                "share_of_bare_alone": bare_ms["1"]["median"] / float(np.median([one["cpu_ms"] for one in some])),
            }
            for clients, some in rows.items()
        },
        "tls_and_token": middle(pairs),
        "server_megabytes_after": resident,
    }


def main() -> None:
    """Measure, write the record, print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    found = bundles.read(given.bundle)
    images = load("cifar10", root=given.root).test
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))  # they lie in the order of classes
    chosen = order[: given.images]
    pixels = images.images[chosen].permute(0, 2, 3, 1).contiguous().numpy()
    wires = Encoder(read_device(given.bundle / "device"))(pixels)
    record: dict[str, Any] = {
        "command": f"python benchmarks/serving.py BUNDLE --images {given.images} "
        f"--requests {given.requests} --rounds {given.rounds}",
        "environment": runs.environment() | {"load_before": os.getloadavg()[0]},
        "bundle": {"model": found.model_name, "wire": found.wire["wire"], "tail_bytes": len(found.models["cloud"])},
        "answers": answers(given.bundle, found, wires, images.labels[chosen].numpy()),
    }
    write_json(RECORD, record)
    print(record["answers"], flush=True)
    record["costs"] = costs(given.bundle, found, wires[:1000], given.requests, given.rounds)
    record["environment"]["load_after"] = os.getloadavg()[0]
    write_json(RECORD, record)
    print(record["costs"])


if __name__ == "__main__":
    main()
