"""One process that answers: event loop, doors, signals and drain."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..deploy import bundle
from ..errors import UserError
from ..nn.allocator import give_back
from . import guard
from .app import app
from .metrics import Log, Metrics, listen, text
from .service import Service
from .settings import BACKLOG, Settings, content, load_certificate, raise_file_limit, taken, tls_context
from .tokens import Tokens

if TYPE_CHECKING:  # gRPC is imported where it is asked for
    from . import rpc

TICK = 0.5
"""Seconds between two notes of the queue's length."""
GOODBYE = 1.0
"""Seconds for which open connections may still send a request, which is told to go elsewhere, and then be closed."""


def run(
    settings: Settings,
    listening: socket.socket,
    ready: Callable[[], None],
    numbers: memoryview[float] | None = None,
    parent: int | None = None,
) -> None:
    """Answer until SIGTERM or SIGINT.

    Args:
        settings: checked settings.
        listening: a bound socket.
        ready: called when requests are answered.
        numbers: memory for the metrics that a supervisor reads; None: this process serves them itself.
        parent: a pipe that ends with the supervisor, and this process with it.

    Raises:
        UserError: bundle or certificate cannot be read, or a port is taken.
    """
    raise_file_limit(settings.limits.max_connections * (1 if settings.grpc_port is None else 2))
    logging.getLogger("uvicorn").addHandler(logging.NullHandler())  # it would write to standard error
    log = Log()
    context = tls_context(settings)
    tokens = Tokens(settings.token_file) if settings.token_file is not None else None
    if tokens is not None:
        tokens.refresh()  # so that the log tells at once why nobody is let in
    found = bundle.read(settings.bundle)
    if settings.model not in (None, found.model_name):  # it would answer on the port of those that serve the other one
        raise UserError(
            f"{settings.bundle} holds {found.model_name} now, and no longer {settings.model}; start the server again"
        )
    service = Service(found, settings.limits, tokens, Metrics(numbers), log)
    del found
    gc.collect()
    give_back()  # the bundle's bytes, of which onnxruntime has made weights
    try:
        import uvloop

        loops = uvloop.new_event_loop
    except ImportError:  # it does not exist for Windows
        loops = None
    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(_serve(settings, service, listening, context, ready, numbers is None, parent))


async def _serve(
    settings: Settings,
    service: Service,
    listening: socket.socket,
    context: ssl.SSLContext | None,
    ready: Callable[[], None],
    own_metrics: bool,
    parent: int | None,
) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    pages = {"/": content(settings.page)} if settings.page is not None else {}
    make, connections = guard.factory(app(service, pages), service)
    patience = {"ssl_handshake_timeout": settings.limits.head_seconds, "ssl_shutdown_timeout": 2} if context else {}
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(lambda _, about: unexpected(service.log, about))
    if parent is not None:
        loop.add_reader(parent, stop.set)
    try:
        server = await loop.create_server(make, sock=listening, ssl=context, backlog=BACKLOG, **patience)
    except OSError as error:
        raise taken(settings, listening.getsockname()[1], error) from None
    door = await _grpc(settings, service) if settings.grpc_port is not None else None
    metrics = await _metrics(settings, service) if own_metrics else None
    loop.add_signal_handler(signal.SIGHUP, _read_again, settings, context, door, service.log)
    ready()
    ticking = asyncio.ensure_future(_tick(service))
    await stop.wait()
    service.log.write("stopping")
    await service.drain()
    closing = asyncio.ensure_future(door.stop(GOODBYE)) if door is not None else None
    with listening.dup() as waiting:  # it outlives the server, which closes its own
        server.close()
        await take_last(waiting, make, context, patience)
    for leave in (lambda one: None, lambda one: one.shutdown(), lambda one: one.transport.abort()):
        for connection in list(connections):
            leave(connection)
        deadline = loop.time() + GOODBYE
        while connections and loop.time() < deadline:
            await asyncio.sleep(0.02)
    if closing is not None:
        await closing
    ticking.cancel()
    if metrics is not None:
        metrics.close()
    service.close()
    service.log.write("stopped")


def unexpected(log: Log, about: dict[str, Any]) -> None:
    """Log an exception that nobody awaits, as a line like any other: asyncio would write it with its traceback.

    Args:
        log: the log.
        about: what asyncio hands to an exception handler.
    """
    error = about.get("exception")
    log.write("error") if error is None else log.failed("error", error)


async def take_last(
    waiting: socket.socket,
    make: Callable[[], asyncio.Protocol],
    context: ssl.SSLContext | None,
    patience: dict[str, float],
) -> None:
    """Take the connections that the server has not seen yet: closing the socket would reset them.

    Args:
        waiting: the socket that has listened; it is closed.
        make: makes the protocol of a connection.
        context: for TLS.
        patience: its deadlines.
    """
    last = []
    waiting.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            last.append(waiting.accept()[0])
    waiting.close()
    loop = asyncio.get_running_loop()
    for one in last:
        one.setblocking(False)
    taking = (loop.connect_accepted_socket(make, one, ssl=context, **patience) for one in last)
    await asyncio.gather(*taking, return_exceptions=True)  # a client that has left again


async def _grpc(settings: Settings, service: Service) -> rpc.Door:
    """Open the door for gRPC, at a port that is reserved."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its messages go around the log
    from . import rpc

    logging.getLogger("grpc").addHandler(logging.NullHandler())
    try:
        door = rpc.Door(service, settings)
    except RuntimeError:
        port = settings.grpc_port
        raise UserError(f"cannot listen on {settings.host} port {port} for gRPC; choose another --grpc-port") from None
    await door.start()
    return door


async def _metrics(settings: Settings, service: Service) -> asyncio.Server | None:
    if settings.metrics_port is None:
        return None

    def write() -> str:
        service.gauge()
        return text([service.metrics.numbers])

    return await metrics_server(settings, write)


async def metrics_server(settings: Settings, write: Callable[[], str]) -> asyncio.Server:
    """Serve the metrics on loopback.

    Args:
        settings: the settings, with a port for metrics.
        write: returns the text.

    Raises:
        UserError: the port is taken.
    """
    port = settings.metrics_port or 0
    try:
        return await listen(port, write)
    except OSError as error:
        raise UserError(f"cannot listen on port {port}: {os.strerror(error.errno or 0)}; choose another") from None


async def _tick(service: Service) -> None:
    """Note the gauges for a supervisor, and why nobody is let in."""
    told = None
    while True:
        service.gauge()
        reason = service.tokens.error if service.tokens else None
        if reason != told:
            service.log.write("tokens", error=reason)
            told = reason
        await asyncio.sleep(TICK)


def _read_again(settings: Settings, context: ssl.SSLContext | None, door: rpc.Door | None, log: Log) -> None:
    """Read the certificate again; one that is damaged leaves the former in use."""
    if context is None:
        return
    try:
        tls_context(settings)  # a trial, as a context that has read half is broken
        load_certificate(context, settings)
        if door is not None:
            door.read_certificate()
    except (UserError, OSError) as error:  # gRPC's is read once more, and may be gone by then
        log.write("certificate not read", error=str(error))
    else:
        log.write("certificate read")
