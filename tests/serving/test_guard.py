"""Connections that are slow, silent, too many or no HTTP are closed, and told why where they can be."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import io
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import pytest

import served
import small_bundle
from served import asked, some_wires
from splitveil.serving import guard, worker
from splitveil.serving.limits import Limits
from splitveil.serving.metrics import Log

try:
    import uvloop

    LOOP = uvloop.new_event_loop  # that of a server; it raises where asyncio's own keeps quiet
except ImportError:
    LOOP = None
SHORT, LONG = 0.05, 30.0
LIMITS = Limits(head_seconds=LONG, body_seconds=LONG, idle_seconds=LONG, answer_seconds=LONG)


class Client:
    """Raw bytes to a server and back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def rest(self) -> bytes:
        """Return all that comes until the server closes the connection."""
        found = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while part := await self.reader.read(65536):
                    found += part
        return found

    async def answer(self) -> bytes:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return head + await self.reader.readexactly(length)


def run(bundle, limits: Limits, test: Callable[[Callable[[], Awaitable[Client]], served.Door], Awaitable[None]]) -> str:
    """Run a test against a server, in which no exception may be left over; return the metrics."""
    with served.door(bundle, limits) as door:
        left: list[object] = []

        async def go() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, about: left.append(about))
            async with served.listening(door) as port:
                clients: list[Client] = []

                async def connect() -> Client:
                    clients.append(Client(*await asyncio.open_connection("127.0.0.1", port)))
                    return clients[-1]

                await test(connect, door)
                for client in clients:
                    client.writer.close()

        told = logging.Handler(logging.ERROR)
        told.emit = left.append  # type: ignore[method-assign]
        logging.getLogger("uvicorn").addHandler(told)
        try:
            with asyncio.Runner(loop_factory=LOOP) as runner:
                runner.run(go())
        finally:
            logging.getLogger("uvicorn").removeHandler(told)
        gc.collect()
        assert left == []
        from splitveil.serving.metrics import text

        return text([door.service.metrics.numbers])


def head(door: served.Door, length: int, more: str = "") -> bytes:
    return f"POST {door.infer} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def raw(door: served.Door, count: int = 1) -> bytes:
    body, headers = asked(some_wires(count))
    return head(door, len(body), "".join(f"{name}: {value}\r\n" for name, value in headers.items())) + body


GET = b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("sent", [b"", b"GET /v2", b"GET /v2 HTTP/1.1\r\nHost: x\r\n", b"\r\n"])
def test_headers_that_do_not_come_are_408(bundle, sent):
    async def test(connect, door):
        client = await connect()
        client.send(sent)
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")

    assert 'reason="slow_request"} 1' in run(bundle, replace(LIMITS, head_seconds=SHORT), test)


def test_headers_that_drip_are_408(bundle):
    async def test(connect, door):
        client = await connect()
        dripping = asyncio.ensure_future(drip(client, GET[:-1] + b"X: " + b"x" * 3000))
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        dripping.cancel()

    run(bundle, replace(LIMITS, head_seconds=SHORT), test)


async def drip(client: Client, data: bytes) -> None:
    for byte in data:
        client.send(bytes([byte]))
        await asyncio.sleep(0.005)


def test_the_time_for_headers_begins_anew_with_each_request(bundle):
    async def test(connect, door):
        client = await connect()
        client.send(GET)
        assert b" 200 " in await client.answer()
        client.send(GET[:9])
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")

    run(bundle, replace(LIMITS, head_seconds=0.2), test)


def test_a_body_that_does_not_come_is_408(bundle):
    async def test(connect, door):
        client = await connect()
        client.send(head(door, 100) + b"{")
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        assert door.lines()[0]["reason"] == "slow_request"

    run(bundle, replace(LIMITS, body_seconds=SHORT), test)


def test_an_idle_connection_is_closed_without_a_word_and_empty_lines_do_not_keep_it(bundle):
    async def test(connect, door):
        client = await connect()
        client.send(GET)
        assert b" 200 " in await client.answer()
        dripping = asyncio.ensure_future(drip(client, b"\r\n" * 2000))
        assert await client.rest() == b""
        dripping.cancel()

    run(bundle, replace(LIMITS, idle_seconds=SHORT), test)


def test_a_connection_is_kept_for_many_requests_and_pipelines(bundle):
    async def test(connect, door):
        client = await connect()
        for _ in range(3):
            client.send(raw(door) + GET + raw(door, 2))
            for _ in range(3):
                assert b" 200 " in await client.answer()
        assert door.service.connections == 1

    run(bundle, LIMITS, test)


def test_too_many_pipelined_requests_are_refused(bundle):
    async def test(connect, door):
        client = await connect()
        client.send(raw(door) * 40)
        assert b"too many requests at once" in await client.rest()
        while door.service.active:
            await asyncio.sleep(0.001)

    run(bundle, LIMITS, test)


def test_a_client_that_leaves_amid_pipelined_requests_leaves_no_exception(bundle):
    async def test(connect, door):
        for _ in range(20):
            client = await connect()
            client.send(raw(door) * 3)
            await asyncio.sleep(0)
            client.writer.transport.abort()
        await asyncio.sleep(0.01)
        while door.service.active or door.service.connections:
            await asyncio.sleep(0.001)

    run(bundle, LIMITS, test)


def test_an_exception_that_nobody_awaits_is_a_line_without_its_words():
    written = io.StringIO()
    worker.unexpected(Log(written), {"message": "secret", "exception": ValueError("secret")})
    worker.unexpected(Log(written), {"message": "secret"})
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert [(line["event"], line.get("error")) for line in lines] == [("error", "ValueError"), ("error", None)]
    assert "secret" not in written.getvalue()


def test_connections_beyond_the_cap_are_turned_away_and_the_others_work(bundle):
    async def test(connect, door):
        first = [await connect() for _ in range(3)]
        for client in first:
            client.send(GET)
            assert b" 200 " in await client.answer()
        late = await connect()
        found = await late.rest()
        assert found.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in found
        first[0].send(raw(door))
        assert b" 200 " in await first[0].answer()
        first[1].writer.close()
        while door.service.connections > 2:
            await asyncio.sleep(0.001)
        again = await connect()
        again.send(GET)
        assert b" 200 " in await again.answer()

    assert 'reason="connections"} 1' in run(bundle, replace(LIMITS, max_connections=3), test)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\n\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nX: " + b"x" * 400_000,
    ],
)
def test_what_is_no_request_is_400_and_closed(bundle, sent):
    async def test(connect, door):
        client = await connect()
        client.send(sent)
        found = await client.rest()
        assert found.startswith(b"HTTP/1.1 400 ")
        assert found.count(b"content-length") == 1
        assert b'{"error":"' in found

    run(bundle, LIMITS, test)


def test_trailers_without_an_end_are_refused(bundle):
    async def test(connect, door):
        client = await connect()
        client.send(f"POST {door.infer} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n".encode())
        client.send(b"X: " + b"x" * 400_000)
        assert b"HTTP/1.1 413 " in await client.rest()

    run(bundle, LIMITS, test)


def test_a_refusal_reaches_a_client_that_writes_all_before_it_reads(bundle):
    async def test(connect, door):
        port = (await connect()).writer.get_extra_info("peername")[1]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        with contextlib.closing(connection):
            answer = await asyncio.to_thread(served.say, connection, "POST", door.infer, b"x" * 20_000_000, {})
        assert answer.status == 413
        assert door.lines()[0]["bytes"] == 0

    run(bundle, LIMITS, test)


def test_a_client_that_leaves_amid_its_body_is_forgotten(bundle):
    async def test(connect, door):
        client = await connect()
        client.send(head(door, 100) + b"{")
        while not door.service.active:
            await asyncio.sleep(0.001)
        client.writer.close()
        while door.service.active:
            await asyncio.sleep(0.001)
        assert [line["reason"] for line in door.lines()] == ["gone"]

    run(bundle, LIMITS, test)


def test_the_last_connections_of_a_server_that_stops_are_answered(bundle):
    with served.door(bundle) as door, socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        async def go():
            make, connections = guard.factory(door.application, door.service)
            reader, writer = await asyncio.open_connection(*listening.getsockname())  # nobody accepts it
            writer.write(raw(door))
            door.service.draining = True
            with listening.dup() as waiting:
                listening.close()
                await worker.take_last(waiting, make, None, {})
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            writer.close()
            while connections:
                await asyncio.sleep(0.001)

        asyncio.run(go())


def test_a_client_that_does_not_read_its_answers_is_cut(bundle, monkeypatch):
    monkeypatch.setattr(small_bundle, "CLASSES", tuple(map(str, range(20_000))))

    def wide(wires):
        return [np.zeros((len(wires), 20_000), np.float32)]

    output = [{"name": "logits", "dtype": "FP32", "shape": [20_000]}]
    about = type(bundle)({**bundle.wire, "outputs": output}, bundle.models)
    with served.door(about, replace(LIMITS, idle_seconds=SHORT, max_batch=2), run=wide) as door:

        async def go():
            async with served.listening(door) as port:
                _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1)
                writer.write(raw(door, 200))
                while not door.lines() or door.service.connections:
                    await asyncio.sleep(0.01)
                writer.close()

        asyncio.run(go())
        assert door.lines()[0]["status"] == 200
        from splitveil.serving.metrics import text

        assert 'reason="slow_reader"} 1' in text([door.service.metrics.numbers])
