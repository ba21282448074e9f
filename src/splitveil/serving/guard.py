"""What uvicorn leaves open: deadlines for headers and idle connections, a cap on connections, a bound on headers.

Deadlines for body and answer are the application's (`splitveil.serving.app`), which can tell its client so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from .app import Application, error_body, error_headers
from .refusals import Kind, Refusal
from .service import Service

LINGER = 1.0
"""Seconds for which a refused client may go on sending before its connection is cut.

A connection that is closed while bytes arrive is reset, and a client that still writes then never reads its answer.
"""
CHUNKED = 8
"""Most bytes on the connection for a byte of a body: one that is sent in chunks of one byte needs six."""
PIPELINED = 16
"""Most requests that wait behind another one on their connection."""


class _Out:
    """The transport as uvicorn's response sees it: closing it leaves a client time to read a refusal.

    Of several requests on a connection uvicorn tells the last one alone that the connection has ended, so what the
    others still write goes nowhere.
    """

    __slots__ = ("_open", "_write", "close", "is_closing")

    def __init__(self, transport: asyncio.Transport, opened: Callable[[], bool], close: Callable[[], None]):
        self._write, self._open = transport.write, opened
        self.is_closing, self.close = transport.is_closing, close

    def write(self, data: bytes) -> None:
        """Send bytes, unless the connection has ended."""
        if self._open():
            self._write(data)


class Guard(HttpToolsProtocol):
    """A connection with exactly one running deadline.

    Args:
        service: whose limits hold, and whose metrics count.
        config: uvicorn's, loaded.
        state: uvicorn's.
    """

    def __init__(self, service: Service, config: Config, state: ServerState):
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self._service, self._limits = service, service.limits
        self._out: _Out | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._in_head = False
        self._got = 0  # bytes since the request began
        self._most = self._limits.max_head + CHUNKED * service.most_bytes
        self._refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or turn it away where there are too many."""
        super().connection_made(transport)
        self._service.connections = len(self.connections)
        self._out = _Out(transport, self._is_open, self._close)
        self._arm(self._limits.head_seconds, self._slow_head)
        if len(self.connections) > self._limits.max_connections:
            self._service.metrics.rejected("connections")
            self._refuse(Refusal(Kind.busy, "too many connections; ask again later"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        self._disarm()
        super().connection_lost(exc)
        self._service.connections = len(self.connections)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and bound the length of headers, and of trailers, that have no end yet."""
        if self._refused:
            return
        self._got += len(data)
        super().data_received(data)
        if self._in_head and self._got > self._limits.max_head:
            self._long_head()
        elif self._got > self._most:
            self._turn_away(Refusal(Kind.too_large))

    def send_400_response(self, msg: str) -> None:
        """Answer bytes that are no HTTP."""
        if not self._refused:
            self._turn_away(Refusal(Kind.malformed, "this is no HTTP/1.1 request"))

    def on_message_begin(self) -> None:
        """Begin to wait for the end of the headers."""
        if self._refused:
            return
        super().on_message_begin()
        if self.cycle is not None:  # the first request's time runs since the connection was opened
            self._arm(self._limits.head_seconds, self._slow_head)
        self._in_head, self._got = True, 0

    def on_headers_complete(self) -> None:
        """Hand a request to the application."""
        if self._refused:
            return
        self._in_head = False
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > self._limits.max_head:
            self._long_head()
        elif self.parser is not None and self.parser.should_upgrade():
            self._turn_away(Refusal(Kind.malformed, "no other protocol is offered; leave out Upgrade"))
        elif len(self.pipeline) >= PIPELINED:
            self._turn_away(Refusal(Kind.malformed, "too many requests at once; wait for an answer"))
        else:
            self._arm_answer()
            super().on_headers_complete()
            self.cycle.transport = self._out  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        """Keep a part of a body."""
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        if not self._refused:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        if self._refused:
            return
        more = bool(self.pipeline)
        super().on_response_complete()
        self._unset_keepalive_if_required()  # any byte ends uvicorn's own timer
        if more:
            self._arm_answer()
        elif not self.transport.is_closing() and not self._in_head:
            self._arm(self._limits.idle_seconds, self._idle)

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, then)

    def _arm_answer(self) -> None:
        """Bound the whole of a request, also where its client does not read the answer."""
        limits = self._limits
        self._arm(limits.body_seconds + limits.answer_seconds + LINGER, self._slow_reader)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _slow_head(self) -> None:
        self._turn_away(Refusal(Kind.slow_request, "the headers came too slowly"))

    def _long_head(self) -> None:
        self._turn_away(Refusal(Kind.malformed, f"more than {self._limits.max_head} bytes of headers"))

    def _slow_reader(self) -> None:
        self._service.metrics.rejected("slow_reader")
        self.transport.abort()

    def _idle(self) -> None:
        if self.transport.get_write_buffer_size():  # an answer that its client does not read
            self._slow_reader()
        else:
            self._close()

    def _is_open(self) -> bool:
        return not (self._refused or self.transport.is_closing())

    def _close(self) -> None:
        """Close the connection, when its client has stopped sending or after a while."""
        if self.transport.is_closing():
            return
        whole = self.cycle is None or not self.cycle.more_body
        if whole and not self._refused:
            self.transport.close()
            self._arm(LINGER + self._limits.answer_seconds, self.transport.abort)
            return
        self._refused = True
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._arm(LINGER, self.transport.abort)

    def eof_received(self) -> None:
        """Close a connection whose client sends no more."""
        if self._refused:
            self.transport.close()

    def _turn_away(self, why: Refusal) -> None:
        """Refuse a request that the application never sees."""
        self._service.metrics.rejected(why.kind.name)
        self._refuse(why)

    def _refuse(self, why: Refusal) -> None:
        if self.transport.is_closing() or self._refused:
            return
        self._refused = True
        self._service.metrics.other(why.kind.http)
        body = error_body(str(why))
        headers = [*error_headers(why.kind), (b"content-length", b"%d" % len(body)), (b"connection", b"close")]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[why.kind.http], *lines, b"\r\n", body]))
        self._close()


def factory(application: Application, service: Service) -> tuple[Callable[[], Guard], set[Any]]:
    """Return what makes the protocol of each connection, and the set of open connections.

    Args:
        application: the door of the service.
        service: the service.
    """
    config = Config(
        application,  # type: ignore[arg-type]
        http=Guard,
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
    )
    config.load()
    state = ServerState()
    return lambda: Guard(service, config, state), state.connections
