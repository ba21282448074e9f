"""What a server counts, as Prometheus reads it, and the log. Neither holds anything of a request's content."""

from __future__ import annotations

import asyncio
import bisect
import json
import math
import mmap
import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TextIO

from .refusals import Kind

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, math.inf)
BATCHES = (1, 2, 4, 8, 16, 32, 64, math.inf)
CODES = (200, *sorted({kind.http for kind in Kind}))
REASONS = (*(kind.name for kind in Kind), "gone", "connections", "slow_reader")
"""Why a request or a connection was turned away."""


@dataclass(frozen=True)
class Family:
    """A metric: its kind, its help, and the label of each of its series."""

    name: str
    kind: str
    about: str
    labels: tuple[str, ...] = ("",)


def _histogram(name: str, about: str, edges: Iterable[float]) -> Family:
    labels = [f'_bucket{{le="{"+Inf" if math.isinf(edge) else f"{edge:g}"}"}}' for edge in edges]
    return Family(name, "histogram", about, (*labels, "_sum"))


FAMILIES = (
    Family(
        "splitveil_requests_total",
        "counter",
        "Requests that were answered, by status.",
        tuple(f'{{code="{code}"}}' for code in CODES),
    ),
    Family(
        "splitveil_rejected_total",
        "counter",
        "Requests and connections that were turned away, by reason.",
        tuple(f'{{reason="{reason}"}}' for reason in REASONS),
    ),
    Family("splitveil_images_total", "counter", "Images that were answered."),
    Family("splitveil_batch_failures_total", "counter", "Batches that failed in the model."),
    _histogram("splitveil_batch_images", "Images of a batch of the model.", BATCHES),
    _histogram("splitveil_request_seconds", "From the headers of an inference request to its answer.", SECONDS),
    Family("splitveil_queue_images", "gauge", "Images that wait."),
    Family("splitveil_connections", "gauge", "Open connections."),
)
PLACES = {
    (family.name, label): place
    for place, (family, label) in enumerate((family, label) for family in FAMILIES for label in family.labels)
}
WIDTH = len(PLACES)
"""Numbers that a worker keeps."""


class Metrics:
    """The numbers of one worker. They may lie in memory that the supervisor shares, which adds up all workers.

    Args:
        numbers: WIDTH numbers, float64; None: own memory.
    """

    def __init__(self, numbers: memoryview[float] | None = None):
        self.numbers = memoryview(bytearray(8 * WIDTH)).cast("d") if numbers is None else numbers
        self._codes = {code: PLACES["splitveil_requests_total", f'{{code="{code}"}}'] for code in CODES}
        self._reasons = {reason: PLACES["splitveil_rejected_total", f'{{reason="{reason}"}}'] for reason in REASONS}
        self._images = PLACES["splitveil_images_total", ""]
        self._failures = PLACES["splitveil_batch_failures_total", ""]
        self._batches = PLACES["splitveil_batch_images", FAMILIES[4].labels[0]]
        self._seconds = PLACES["splitveil_request_seconds", FAMILIES[5].labels[0]]
        self._gauges = [PLACES["splitveil_queue_images", ""], PLACES["splitveil_connections", ""]]
        self.gauges(0, 0)

    def request(self, code: int | None, images: int, seconds: float) -> None:
        """Count an inference request.

        Args:
            code: status of the answer; None: its client had left.
            images: images that were answered.
            seconds: time that it took.
        """
        if code is not None:
            self.numbers[self._codes[code]] += 1
        self.numbers[self._images] += images
        self.numbers[self._seconds + bisect.bisect_left(SECONDS, seconds)] += 1
        self.numbers[self._seconds + len(SECONDS)] += seconds

    def other(self, code: int) -> None:
        """Count a request that asks for no inference.

        Args:
            code: status of the answer.
        """
        self.numbers[self._codes[code]] += 1

    def rejected(self, reason: str) -> None:
        """Count a request or a connection that was turned away.

        Args:
            reason: one of `REASONS`.
        """
        self.numbers[self._reasons[reason]] += 1

    def batch(self, images: int) -> None:
        """Count a batch of the model. Its thread calls it, and nothing else touches these numbers.

        Args:
            images: its images.
        """
        self.numbers[self._batches + bisect.bisect_left(BATCHES, images)] += 1
        self.numbers[self._batches + len(BATCHES)] += images

    def failure(self) -> None:
        """Count a batch that failed. The thread of the model calls it."""
        self.numbers[self._failures] += 1

    def gauges(self, queue: int, connections: int) -> None:
        """Note what changes up and down.

        Args:
            queue: images that wait.
            connections: open connections.
        """
        for place, value in zip(self._gauges, (queue, connections), strict=True):
            self.numbers[place] = value


def shared(handle: int, workers: int) -> list[memoryview[float]]:
    """Return the numbers of each worker in a file that several processes map.

    Args:
        handle: an open file of ``8 * WIDTH * workers`` bytes.
        workers: number of workers.
    """
    whole = memoryview(mmap.mmap(handle, 8 * WIDTH * workers)).cast("d")
    return [whole[place * WIDTH : (place + 1) * WIDTH] for place in range(workers)]


def text(workers: Iterable[memoryview[float]]) -> str:
    """Return the sum over all workers in the text format of Prometheus.

    Args:
        workers: numbers of each worker.

    >>> [line for line in text([Metrics().numbers]).splitlines() if line.startswith("splitveil_images")]
    ['splitveil_images_total 0']
    """
    sums = [sum(numbers) for numbers in zip(*workers, strict=True)]
    lines = []
    for family in FAMILIES:
        lines += [f"# HELP {family.name} {family.about}", f"# TYPE {family.name} {family.kind}"]
        values = [sums[PLACES[family.name, label]] for label in family.labels]
        if family.kind == "histogram":  # Prometheus counts everything below an edge
            values[:-1] = [sum(values[: place + 1]) for place in range(len(values) - 1)]
        lines += [f"{family.name}{label} {value:.15g}" for label, value in zip(family.labels, values, strict=True)]
        if family.kind == "histogram":
            lines.append(f"{family.name}_count {values[-2]:.15g}")
    return "\n".join(lines) + "\n"


async def listen(port: int, write: Callable[[], str]) -> asyncio.Server:
    """Serve the metrics on this machine's loopback address.

    Args:
        port: its port; 0: any.
        write: returns the text.

    Raises:
        OSError: the port is taken.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(5):
                head = await reader.readuntil(b"\r\n\r\n")
                known = head.startswith((b"GET /metrics ", b"GET / "))
                body = write().encode() if known else b"see /metrics\n"
                status = b"200 OK" if known else b"404 Not Found"
                lines = [b"HTTP/1.1 " + status, b"Content-Type: text/plain; version=0.0.4", b"Connection: close"]
                writer.write(b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body]))
                await writer.drain()
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            pass  # a scraper that breaks off, or is none
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.0.0.1", port, limit=16 * 1024)


class Log:
    """JSON lines about requests and events.

    A closed pipe ends the log and not the server; while a pipe is full, as nobody reads it, lines are dropped.

    Args:
        out: where they go; None: standard error.
    """

    def __init__(self, out: TextIO | None = None):
        self._out = out or sys.stderr

    def write(self, event: str, **about: str | float | None) -> None:
        """Write a line.

        Args:
            event: what happened.
            about: plain facts; never a wire, an answer, a token or a client's text.
        """
        line = {"time": round(time.time(), 3), "event": event, "process": os.getpid(), **about}
        if not self._takes():
            return
        try:
            self._out.write(json.dumps(line) + "\n")
            self._out.flush()
        except (OSError, ValueError):  # closed
            self._out = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115

    def _takes(self) -> bool:
        """Return whether there is room for a line in a pipe; all requests would wait with one that does not fit."""
        try:
            poll = select.poll()
            poll.register(self._out.fileno(), select.POLLOUT)
            return bool(poll.poll(0))
        except (OSError, ValueError):  # no file of the system
            return True

    def failed(self, event: str, error: BaseException, **about: str | float | None) -> None:
        """Write a line about an exception: its class and its place, not its message, which may repeat content.

        Args:
            event: what happened.
            error: the exception.
            about: plain facts.
        """
        trace = error.__traceback__
        while trace and trace.tb_next:
            trace = trace.tb_next
        place = f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else None  # noqa: PTH119
        self.write(event, error=type(error).__name__, place=place, **about)
