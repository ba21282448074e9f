"""The metrics add up over workers, in the format of Prometheus; the log survives a reader that has gone."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import tempfile
import threading

from splitveil.serving import metrics
from splitveil.serving.metrics import BATCHES, SECONDS, WIDTH, Log, Metrics, listen, text


def values(page: str) -> dict[str, float]:
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'[a-z_]+(\{[a-z]+="[^"]+"\})? [0-9.e+-]+', line) for line in lines)
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_workers_add_up_and_histograms_are_cumulative():
    with tempfile.TemporaryFile() as file:
        file.truncate(8 * WIDTH * 2)
        first, second = map(Metrics, metrics.shared(file.fileno(), 2))
        first.request(200, 5, 0.004)
        second.request(200, 2, 0.5)
        second.request(413, 0, 100.0)
        second.request(None, 0, 0.5)
        second.rejected("too_large")
        first.batch(3)
        second.batch(64)
        second.failure()
        first.gauges(7, 2)
        second.gauges(1, 1)
        page = text(metrics.shared(file.fileno(), 2))
    found = values(page)
    assert found['splitveil_requests_total{code="200"}'] == 2
    assert found['splitveil_requests_total{code="413"}'] == 1
    assert found['splitveil_rejected_total{reason="too_large"}'] == 1
    assert found["splitveil_images_total"] == 7
    assert found["splitveil_batch_failures_total"] == 1
    assert (found["splitveil_queue_images"], found["splitveil_connections"]) == (8, 3)
    batches = [found[f'splitveil_batch_images_bucket{{le="{edge:g}"}}'] for edge in BATCHES[:-1]]
    assert batches == [0, 0, 1, 1, 1, 1, 2]
    assert (found["splitveil_batch_images_sum"], found["splitveil_batch_images_count"]) == (67, 2)
    seconds = [found[f'splitveil_request_seconds_bucket{{le="{edge:g}"}}'] for edge in SECONDS[:-1]]
    assert seconds == [0, 0, 1, 1, 1, 1, 1, 1, 3, 3, 3, 3, 3]
    assert found['splitveil_request_seconds_bucket{le="+Inf"}'] == found["splitveil_request_seconds_count"] == 4
    assert page.count("# TYPE") == page.count("# HELP") == len(metrics.FAMILIES)


def test_a_worker_that_starts_again_keeps_what_was_counted_and_forgets_its_connections():
    first = Metrics()
    first.request(200, 5, 0.1)
    first.gauges(3, 3)
    found = values(text([Metrics(first.numbers).numbers]))
    assert (found["splitveil_images_total"], found["splitveil_connections"]) == (5, 0)


def test_the_door_of_the_metrics():
    async def ask(first: bytes) -> bytes:
        server = await listen(0, lambda: "numbers\n")
        address = server.sockets[0].getsockname()
        assert address[0] == "127.0.0.1"
        reader, writer = await asyncio.open_connection(*address)
        writer.write(first)
        writer.write_eof()
        found = await reader.read()
        writer.close()
        server.close()
        return found

    assert asyncio.run(ask(b"GET /metrics HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\nnumbers\n")
    assert b"404" in asyncio.run(ask(b"GET /other HTTP/1.1\r\n\r\n"))
    assert asyncio.run(ask(b"x" * 10)) == b""


def test_a_log_that_nobody_reads_keeps_nobody_waiting():
    """All requests would wait with the line that does not fit into the pipe."""
    reading, writing = os.pipe()
    with open(writing, "w", encoding="utf-8") as out:  # noqa: PTH123
        log = Log(out)
        many = threading.Thread(target=lambda: [log.write("one", images=i) for i in range(5000)], daemon=True)
        many.start()
        many.join(60)
        assert not many.is_alive()
        lines = os.read(reading, 2**20).decode().splitlines()
        assert 10 < len(lines) < 5000
        log.write("again", images=0)
        assert json.loads(os.read(reading, 2**20).decode().splitlines()[-1])["event"] == "again"
    os.close(reading)


def test_a_log_whose_reader_has_gone_ends_quietly():
    class Pipe(io.StringIO):
        def write(self, text: str) -> int:
            if self.getvalue():
                raise BrokenPipeError
            return super().write(text)

    out = Pipe()
    log = Log(out)
    for images in range(3):
        log.write("one", images=images)
    assert json.loads(out.getvalue())["images"] == 0
