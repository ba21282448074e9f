"""Ill-treat a server of a tiny bundle, and count answers that are wrong, missing or not listed.

A process of `splitveil serve` is asked over sockets by one asynchronous client. Each trial starts its own server.

    python benchmarks/serving_faults.py --out benchmarks/serving_faults.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

from trials import Trial, run

import served
from splitveil.deploy.bundle import Bundle
from splitveil.serving.limits import Limits
from splitveil.serving.metrics import CODES
from splitveil.serving.settings import Settings

POOL = 4096
"""Wires whose answers are known."""
SHORT = Limits(head_seconds=0.5, body_seconds=0.5, idle_seconds=1)
MOST_GROWTH = 10.0
"""MB by which a server's memory may grow."""


@dataclass
class Asked:
    """A server, its process, and wires with known answers."""

    running: served.Running
    path: str
    wires: np.ndarray
    known: np.ndarray

    def request(self, rows: np.ndarray) -> bytes:
        body, headers = served.asked(self.wires[rows])
        return self.raw(body, headers)

    def raw(self, body: bytes, headers: dict[str, str]) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"POST {self.path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body

    @property
    def megabytes(self) -> float:
        """Resident memory of the server."""
        pages = int(Path(f"/proc/{self.running.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


class Client:
    """One connection at a time, opened again after it was closed."""

    def __init__(self, port: int):
        self.port = port
        self.writer: asyncio.StreamWriter | None = None

    async def send(self, data: bytes) -> None:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writer.write(data)

    def leave(self) -> None:
        if self.writer is not None:
            self.writer.transport.abort()
            self.writer = None

    async def answer(self) -> served.Answer:
        """Return an answer.

        Raises:
            OSError, EOFError: the server has closed the connection.
        """
        text = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = text.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        body = await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.leave()
        return served.Answer(int(status.split()[1]), headers, body)


@contextlib.asynccontextmanager
async def server(bundle: Bundle, folder: Path, limits: Limits | None = None, workers: int = 1) -> AsyncIterator[Asked]:
    log = folder / "log"
    settings = Settings(str(folder / "bundle"), port=0, workers=workers, limits=limits or Limits())
    wires = served.some_wires(POOL, 1)
    with served.started(settings, log) as running:
        yield Asked(running, f"/v2/models/{bundle.model_name}/infer", wires, served.expected(bundle, wires))


async def mixed(bundle: Bundle, folder: Path, requests: int, clients: int) -> dict[str, Any]:
    """Ask by many clients, of whom some leave before their answer; compare each answer with the known one."""
    found: Counter[str] = Counter()
    left = iter(range(requests))
    memory: list[float] = []

    async def client(asked: Asked, number: int) -> None:
        rng, own = np.random.default_rng(number), Client(asked.running.port)
        for _ in left:
            count = int(rng.integers(65, 257)) if rng.random() < 0.002 else int(rng.integers(1, 9))
            rows = rng.integers(0, POOL, count)
            await own.send(asked.request(rows))
            if rng.random() < 0.05:
                await asyncio.sleep(rng.choice([0, 0.002]))
                own.leave()
                found["left before the answer"] += 1
                continue
            answer = await own.answer()
            right = answer.status == 200 and np.array_equal(answer.logits, asked.known[rows])
            found["right" if right else f"wrong (status {answer.status})"] += 1
            found["images"] += count
        own.leave()

    async with server(bundle, folder) as asked:
        started = time.perf_counter()
        warm = Client(asked.running.port)
        for _ in range(500):
            await warm.send(asked.request(np.arange(8)))
            await warm.answer()
        memory.append(asked.megabytes)
        await asyncio.gather(*(client(asked, number) for number in range(clients)))
        memory.append(asked.megabytes)
        seconds = time.perf_counter() - started
    wrong = sum(count for name, count in found.items() if name.startswith("wrong"))
    return {
        "clients": clients,
        "requests": requests,
        **found,
        "mixed_up": wrong,
        "megabytes": memory,
        "seconds": round(seconds, 1),
        "held": wrong == 0 and memory[1] - memory[0] <= MOST_GROWTH,
    }


def mutated(asked: Asked, rng: np.random.Generator) -> bytes:
    """Return a request with bytes changed, taken out or put in: anywhere, or in its JSON part alone."""
    body, headers = served.asked(asked.wires[rng.integers(0, POOL, rng.integers(1, 5))])
    whole = rng.random() < 0.5
    data = bytearray(asked.raw(body, headers) if whole else body)
    for _ in range(rng.integers(1, 6)):
        place = int(rng.integers(0, len(data)))
        kind = rng.integers(0, 4)
        if kind == 0:
            data[place] = int(rng.integers(0, 256))
        elif kind == 1:
            del data[place : place + int(rng.integers(1, 30))]
        elif kind == 2:
            data[place:place] = rng.bytes(int(rng.integers(1, 30)))
        else:
            data[place:place] = bytes(rng.choice([b"[" * 500, b"NaN", b"1e999", b'"', b"\r\n", b"-1", b"{}", b"\0"]))
    return bytes(data) if whole else asked.raw(bytes(data), headers)


async def fuzzed(bundle: Bundle, folder: Path, requests: int, clients: int) -> dict[str, Any]:
    """Send mutated requests; every answer must have a listed code and, if it is a refusal, one line of JSON."""
    found: Counter[str] = Counter()
    left = iter(range(requests))
    memory: list[float] = []

    async def client(asked: Asked, number: int) -> None:
        rng = np.random.default_rng(number)
        for _ in left:
            own = Client(asked.running.port)
            await own.send(mutated(asked, rng))
            try:
                answer = await own.answer()
            except (OSError, EOFError):
                found["closed without an answer"] += 1
                continue
            finally:
                own.leave()
            found[str(answer.status)] += 1
            if answer.status not in CODES:
                found["not listed"] += 1
            if answer.status != 200:
                text = answer.json.get("error", "")
                if list(answer.json) != ["error"] or "\n" in text or "Traceback" in text or 'File "' in text:
                    found["no single line"] += 1

    async with server(bundle, folder, SHORT) as asked:
        await asyncio.gather(*(client(asked, number) for number in range(1000, 1000 + clients)))
        found.clear()
        left = iter(range(requests))
        memory.append(asked.megabytes)
        await asyncio.gather(*(client(asked, number) for number in range(clients)))
        memory.append(asked.megabytes)
        works = asked.running.ask("GET", "/v2/health/ready").status == 200
        text = asked.running.log.read_text()
    bad = found["not listed"] + found["no single line"] + found["500"] + text.count("Traceback")
    return {
        "requests": requests,
        "answers": dict(sorted(found.items())),
        "tracebacks": text.count("Traceback"),
        "megabytes": memory,
        "held": bad == 0 and works and memory[1] - memory[0] <= MOST_GROWTH,
    }


async def crowd(bundle: Bundle, folder: Path, connections: int) -> dict[str, Any]:
    """Open more connections than the server takes, and ask on each."""
    found: Counter[str] = Counter()
    async with server(bundle, folder) as asked:
        before = asked.megabytes
        clients = [Client(asked.running.port) for _ in range(connections)]
        for client in clients:
            await client.send(b"")
        await asyncio.sleep(0.5)
        for client in clients:
            try:
                await client.send(asked.request(np.arange(1)))
                found[str((await client.answer()).status)] += 1
            except (OSError, EOFError):
                found["closed"] += 1
        during = asked.megabytes
        for client in clients:
            client.leave()
        await asyncio.sleep(0.5)
        after = asked.running.ask("GET", "/v2/health/ready").status
    cap = Limits().max_connections
    right = found["200"] == cap and found["503"] == connections - cap and after == 200
    return {
        "connections": connections,
        "cap": cap,
        "answers": dict(found),
        "afterwards": after,
        "megabytes": [before, during],
        "held": right,
    }


async def slow(bundle: Bundle, folder: Path, each: int) -> dict[str, Any]:
    """Send half a request line, half of the headers, half a body, drips of each, and nothing at all."""
    found: dict[str, Counter[str]] = {}
    async with server(bundle, folder, SHORT) as asked:
        whole = asked.request(np.arange(4))
        body = whole.index(b"\r\n\r\n") + 4
        kinds: dict[str, tuple[bytes, bytes]] = {
            "nothing": (b"", b""),
            "half a line": (whole[:9], b""),
            "half of the headers": (whole[:60], b""),
            "half a body": (whole[:-5], b""),
            "dripping headers": (whole[:60], b"x: " + b"y" * 1000),
            "dripping body": (whole[: body + 1], whole[body + 1 :]),
        }

        async def one(kind: str) -> None:
            first, rest = kinds[kind]
            client = Client(asked.running.port)
            await client.send(first)
            dripping = asyncio.ensure_future(drip(client, rest))
            try:
                found.setdefault(kind, Counter())[str((await client.answer()).status)] += 1
            except (OSError, EOFError):
                found.setdefault(kind, Counter())["closed"] += 1
            dripping.cancel()
            client.leave()

        await asyncio.gather(*(one(kind) for kind in kinds for _ in range(each)))
        works = asked.running.ask("GET", "/v2/health/ready").status == 200
    right = all(set(counts) == {"408"} for counts in found.values())
    return {"each": each, "answers": {kind: dict(counts) for kind, counts in found.items()}, "held": right and works}


async def drip(client: Client, data: bytes) -> None:
    for byte in data:
        await client.send(bytes([byte]))
        await asyncio.sleep(0.05)


async def load(asked: Asked, clients: int, then: Callable[[], None], after: int) -> Counter[str]:
    """Ask until nobody listens; do something amid it. A request that gets no answer is lost."""
    found: Counter[str] = Counter()

    async def client(number: int) -> None:
        rng, own = np.random.default_rng(number), Client(asked.running.port)
        while True:
            rows = rng.integers(0, POOL, int(rng.integers(1, 9)))
            try:
                await own.send(b"")
            except OSError:
                return  # it listens no more
            try:
                await own.send(asked.request(rows))
                answer = await own.answer()
            except (OSError, EOFError):
                found["lost"] += 1
                own.leave()
                continue
            right = answer.status != 200 or np.array_equal(answer.logits, asked.known[rows])
            found[str(answer.status) if right else "wrong"] += 1
            if found["200"] == after:
                then()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return found


async def stopped(bundle: Bundle, folder: Path, clients: int, times: int) -> dict[str, Any]:
    """Send SIGTERM under load, several times."""
    found: Counter[str] = Counter()
    codes: Counter[int] = Counter()
    for _ in range(times):
        async with server(bundle, folder) as asked:
            found += await load(asked, clients, lambda: asked.running.process.send_signal(signal.SIGTERM), 500)
            codes[await asyncio.to_thread(asked.running.process.wait, 30)] += 1
    return {
        "times": times,
        "clients": clients,
        "answers": dict(found),
        "exit_codes": {str(code): count for code, count in codes.items()},
        "held": not found["lost"] and not found["wrong"] and set(codes) == {0},
    }


async def killed(bundle: Bundle, folder: Path, clients: int, times: int) -> dict[str, Any]:
    """Kill one of two workers amid requests; each client sends the same bytes again, and the service goes on."""
    found: Counter[str] = Counter()
    async with server(bundle, folder, workers=2) as asked:
        for _ in range(times):
            victim = int(children(asked)[0])
            left = iter(range(2000))

            async def client(number: int, left: Any = left, victim: int = victim) -> None:
                rng, own = np.random.default_rng(number), Client(asked.running.port)
                for step in left:
                    if step == 500:
                        os.kill(victim, signal.SIGKILL)
                    rows = rng.integers(0, POOL, int(rng.integers(1, 9)))
                    for attempt in range(5):
                        try:
                            await own.send(asked.request(rows))
                            answer = await own.answer()
                        except (OSError, EOFError):
                            own.leave()
                            found["connections that broke"] += 1
                            continue
                        right = answer.status == 200 and np.array_equal(answer.logits, asked.known[rows])
                        found["right" if right else "wrong"] += 1
                        found["asked again"] += attempt > 0
                        break
                    else:
                        found["never answered"] += 1
                own.leave()

            await asyncio.gather(*(client(number) for number in range(clients)))
            for _ in range(300):
                if asked.running.log.read_text().count("worker ended") and len(children(asked)) == 2:
                    break
                await asyncio.sleep(0.05)
            found["workers afterwards"] = len(children(asked))
        ended = [line for line in asked.running.log.read_text().splitlines() if "worker ended" in line]
        code = await asyncio.to_thread(asked.running.stop)
    held = not found["wrong"] and not found["never answered"] and found["workers afterwards"] == 2 and code == 0
    return {"times": times, "clients": clients, **found, "restarts": len(ended), "exit_code": code, "held": held}


def children(asked: Asked) -> list[str]:
    number = asked.running.process.pid
    return Path(f"/proc/{number}/task/{number}/children").read_text().split()


def all_trials(bundle: Bundle, folder: Path, args: argparse.Namespace) -> dict[str, Trial]:
    return {
        "answers belong to their requests": mixed(bundle, folder, args.requests, args.clients),
        "fuzzed requests": fuzzed(bundle, folder, args.fuzzed, args.clients),
        "too many connections": crowd(bundle, folder, args.connections),
        "slow clients": slow(bundle, folder, 20),
        "SIGTERM under load": stopped(bundle, folder, args.clients, args.times),
        "a worker is killed": killed(bundle, folder, args.clients, args.times),
    }


if __name__ == "__main__":
    run(
        Path(__file__),
        str(__doc__),
        {"requests": 100_000, "fuzzed": 10_000, "connections": 600, "clients": 32, "times": 5},
        all_trials,
    )
