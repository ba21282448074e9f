"""Ill-treat the gRPC door of a server of a tiny bundle, and count answers that are wrong, lost or not listed.

Each trial starts its own process of `splitveil serve`; benchmarks/serving_faults.py does the same to the HTTP door.

    python benchmarks/grpc_faults.py --out benchmarks/grpc_faults.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc
import numpy as np
from trials import Trial, run

import grpc_calls
import served
from splitveil.deploy.bundle import Bundle
from splitveil.serving import rpc
from splitveil.serving.limits import Limits
from splitveil.serving.refusals import Kind
from splitveil.serving.settings import Settings

METHOD = f"/{rpc.SERVICE}/ModelInfer"
POOL = 4096
"""Wires whose answers are known."""
LISTED = {"OK", *(kind.grpc for kind in Kind)}
SHORT = Limits(head_seconds=0.5, body_seconds=0.5, idle_seconds=1)
MOST_GROWTH = 10.0
"""MB by which a server's memory may grow."""
OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


@dataclass
class Asked:
    """A server, the address of its gRPC door, and wires with known answers."""

    running: served.Running
    bundle: Bundle
    address: str
    wires: np.ndarray
    known: np.ndarray

    def message(self, rows: np.ndarray) -> bytes:
        return grpc_calls.request(self.bundle, self.wires[rows]).SerializeToString()

    @property
    def megabytes(self) -> float:
        """Resident memory of the server."""
        pages = int(Path(f"/proc/{self.running.process.pid}/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)

    async def works(self) -> bool:
        async with grpc.aio.insecure_channel(self.address, OPTIONS) as channel:
            answer = await channel.unary_unary(METHOD)(self.message(np.arange(2)), wait_for_ready=True, timeout=20)
        return np.array_equal(grpc_calls.logits(answer), self.known[:2])


@contextlib.asynccontextmanager
async def server(bundle: Bundle, folder: Path, limits: Limits | None = None) -> AsyncIterator[Asked]:
    settings = Settings(str(folder / "bundle"), port=0, grpc_port=0, limits=limits or Limits())
    wires = served.some_wires(POOL, 1)
    with served.started(settings, folder / "log") as running:
        address = running.line.partition("gRPC at ")[2].partition(";")[0]
        yield Asked(running, bundle, address, wires, served.expected(bundle, wires))


async def mixed(bundle: Bundle, folder: Path, requests: int, clients: int) -> dict[str, Any]:
    """Ask by many clients, of whom some leave before their answer; compare each answer with the known one."""
    found: Counter[str] = Counter()

    async def client(asked: Asked, number: int, left: Iterator[int]) -> None:
        rng = np.random.default_rng(number)
        async with grpc.aio.insecure_channel(asked.address, OPTIONS) as channel:
            method = channel.unary_unary(METHOD)
            for _ in left:
                count = int(rng.integers(65, 257)) if rng.random() < 0.002 else int(rng.integers(1, 9))
                rows = rng.integers(0, POOL, count)
                call = method(asked.message(rows))
                if rng.random() < 0.05:
                    await asyncio.sleep(rng.choice([0, 0.002]))
                    call.cancel()
                    found["left before the answer"] += 1
                    continue
                right = np.array_equal(grpc_calls.logits(await call), asked.known[rows])
                found["right" if right else "wrong"] += 1

    async with server(bundle, folder) as asked:
        await asyncio.gather(*(client(asked, number, left) for left in [iter(range(500))] for number in range(clients)))
        found.clear()
        memory = [asked.megabytes]
        left = iter(range(requests))
        await asyncio.gather(*(client(asked, number, left) for number in range(clients)))
        memory.append(asked.megabytes)
    held = not found["wrong"] and memory[1] - memory[0] <= MOST_GROWTH
    return {"clients": clients, "requests": requests, **found, "megabytes": memory, "held": held}


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """Return bytes of which some were changed, taken out or put in."""
    data = bytearray(good)
    for _ in range(rng.integers(1, 6)):
        place, kind = int(rng.integers(0, max(1, len(data)))), rng.integers(0, 3)
        if kind == 0 and data:
            data[place] = int(rng.integers(0, 256))
        elif kind == 1:
            del data[place : place + int(rng.integers(1, 30))]
        else:
            data[place:place] = rng.bytes(int(rng.integers(1, 30)))
    return bytes(data)


async def fuzzed(bundle: Bundle, folder: Path, requests: int, clients: int) -> dict[str, Any]:
    """Send mutated messages; every answer must have a listed code and one line without a traceback."""
    found: Counter[str] = Counter()

    async def client(asked: Asked, number: int, left: Iterator[int]) -> None:
        rng = np.random.default_rng(number)
        async with grpc.aio.insecure_channel(asked.address, OPTIONS) as channel:
            for _ in left:
                message = mutated(asked.message(rng.integers(0, POOL, rng.integers(1, 5))), rng)
                call = channel.unary_unary(METHOD)(message)
                code, details = (await call.code()).name, await call.details() or ""
                found[code] += 1
                found["not listed"] += code not in LISTED
                found["no single line"] += "\n" in details or "Traceback" in details or 'File "' in details

    async with server(bundle, folder) as asked:
        await asyncio.gather(*(client(asked, number, left) for left in [iter(range(500))] for number in range(clients)))
        found.clear()
        memory = [asked.megabytes]
        left = iter(range(requests))
        await asyncio.gather(*(client(asked, number, left) for number in range(1000, 1000 + clients)))
        memory.append(asked.megabytes)
        works = await asked.works()
        tracebacks = asked.running.log.read_text().count("Traceback")
    bad = found["not listed"] + found["no single line"] + found["INTERNAL"] + tracebacks
    held = not bad and works and memory[1] - memory[0] <= MOST_GROWTH
    codes = {name: count for name, count in sorted(found.items()) if count}
    return {"requests": requests, "codes": codes, "tracebacks": tracebacks, "megabytes": memory, "held": held}


async def raw(bundle: Bundle, folder: Path, connections: int) -> dict[str, Any]:
    """Send bytes that are no HTTP/2, or only begin as such, and wait until the server closes the connection."""
    found: Counter[str] = Counter()

    async def one(asked: Asked, number: int) -> None:
        rng = np.random.default_rng(number)
        reader, writer = await asyncio.open_connection(*asked.address.rsplit(":", 1))
        with contextlib.suppress(OSError):
            writer.write((PREFACE if number % 2 else b"") + rng.bytes(int(rng.integers(0, 300))))
            await asyncio.wait_for(reader.read(-1), 20)
        found["closed"] += 1
        writer.close()

    async with server(bundle, folder, SHORT) as asked:
        memory = []
        for first in range(0, 2 * connections, 50):
            if first == connections:
                memory.append(asked.megabytes)
                found.clear()
            await asyncio.gather(*(one(asked, first + place) for place in range(50)))
        memory.append(asked.megabytes)
        works = await asked.works()
        tracebacks = asked.running.log.read_text().count("Traceback")
    held = works and not tracebacks and found["closed"] == connections and memory[1] - memory[0] <= MOST_GROWTH
    return {"connections": connections, **found, "tracebacks": tracebacks, "megabytes": memory, "held": held}


async def stopped(bundle: Bundle, folder: Path, clients: int, times: int, leaves: bool) -> dict[str, Any]:
    """Send SIGTERM under load, several times; a request that gets no status of ours is lost.

    Clients either go elsewhere when they are told to, or go on asking here without a pause.
    """
    found: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    told: set[int] = set()

    async def client(asked: Asked, number: int) -> None:
        rng = np.random.default_rng(number)
        async with grpc.aio.insecure_channel(asked.address, OPTIONS) as channel:
            while True:
                rows = rng.integers(0, POOL, int(rng.integers(1, 9)))
                call = channel.unary_unary(METHOD)(asked.message(rows), timeout=30)
                code, details = (await call.code()).name, await call.details() or ""
                if code == "OK":
                    right = np.array_equal(grpc_calls.logits(await call), asked.known[rows])
                    found["right" if right else "wrong"] += 1
                elif code == "UNAVAILABLE" and "stopping" in details:
                    found["told to go elsewhere"] += 1
                    if leaves:
                        return
                elif code == "UNAVAILABLE" and "connect" in details.lower() and "reset" not in details.lower():
                    return  # it listens no more
                else:
                    found[f"lost: {code}"] += 1
                if found["right"] >= 500 and asked.running.process.pid not in told:
                    told.add(asked.running.process.pid)
                    asked.running.process.terminate()

    for _ in range(times):
        found["right before"] += found.pop("right", 0)
        async with server(bundle, folder) as asked:
            await asyncio.gather(*(client(asked, number) for number in range(clients)))
            codes[await asyncio.to_thread(asked.running.process.wait, 30)] += 1
    found["right"] += found.pop("right before")
    lost = sum(count for name, count in found.items() if name.startswith("lost"))
    held = not found["wrong"] and set(codes) == {0} and not lost
    return {"times": times, "clients": clients, "answers": dict(found), "exit_codes": dict(codes), "held": held}


def all_trials(bundle: Bundle, folder: Path, args: argparse.Namespace) -> dict[str, Trial]:
    return {
        "answers belong to their requests": mixed(bundle, folder, args.requests, args.clients),
        "fuzzed messages": fuzzed(bundle, folder, args.fuzzed, args.clients),
        "bytes that are no HTTP/2": raw(bundle, folder, args.raw),
        "SIGTERM under load": stopped(bundle, folder, args.clients, args.times, leaves=True),
        "SIGTERM, and clients that go on": stopped(bundle, folder, args.clients, args.times, leaves=False),
    }


if __name__ == "__main__":
    run(
        Path(__file__),
        str(__doc__),
        {"requests": 20_000, "fuzzed": 10_000, "raw": 1_000, "clients": 32, "times": 5},
        all_trials,
    )
