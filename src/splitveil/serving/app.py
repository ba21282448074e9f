"""The door for HTTP: a plain ASGI application that speaks the Open Inference Protocol v2."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from . import protocol
from .refusals import RETRY_AFTER, Gone, Kind, Refusal
from .served import SERVER
from .service import Entry, Service

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

MODEL = re.compile("/v2/models/([^/]+)(?:/versions/([^/]+))?(/ready|/infer)?")
JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")
CLOSE = (b"connection", b"close")
PAGE: Headers = [
    (b"content-type", b"text/html; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:; style-src 'unsafe-inline'; "
        b"img-src 'self' data: blob:; media-src blob:; worker-src blob:; connect-src 'self' data: blob:; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
"""Headers of a page: it may run what it holds, and connect to its own server only."""


def error_body(message: str) -> bytes:
    """Return the body of a refusal.

    Args:
        message: one line.
    """
    return protocol.dumped({"error": message})


def error_headers(kind: Kind) -> Headers:
    """Return the headers of a refusal.

    Args:
        kind: why.
    """
    found: Headers = [JSON]
    if kind.http == 503:
        found.append((b"retry-after", b"%d" % RETRY_AFTER))
    if kind is Kind.unauthenticated:
        found.append((b"www-authenticate", b"Bearer"))
    return found


def app(service: Service, pages: Mapping[str, bytes] | None = None) -> Application:
    """Return the ASGI application of a service; uvicorn, Ray Serve or any other server of ASGI runs it.

    Args:
        service: what answers.
        pages: HTML by its path, such as ``/``, which everybody gets without a token.
    """
    return _Door(service, pages or {})


class _Door:
    """Routes requests; each method that answers returns status, headers and body, or raises a `Refusal`."""

    def __init__(self, service: Service, pages: Mapping[str, bytes]):
        self._service, self._pages = service, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] != "http":
            raise ValueError(f"{scope['type']!r} is not offered")
        else:
            await _Exchange(self._service, self._pages, scope, receive, send).run()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.shutdown":
                self._service.close()
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return


class _Exchange:
    """One request and its answer."""

    def __init__(self, service: Service, pages: Mapping[str, bytes], scope: Scope, receive: Receive, send: Send):
        self._service, self._pages = service, pages
        self._receive, self._send = receive, send
        self._path: str = scope["path"]
        self._method: str = scope["method"]
        self._headers: dict[bytes, str] = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self._unread = self._headers.get(b"content-length", "0") != "0" or b"transfer-encoding" in self._headers

    async def run(self) -> None:
        """Answer the request."""
        model = MODEL.fullmatch(self._path)
        if model and model[3] == "/infer":
            await self._infer(model[1], model[2] or "")
            return
        try:
            status, headers, body = self._get(model)
        except Refusal as error:
            self._service.metrics.rejected(error.kind.name)
            status, headers, body = error.kind.http, error_headers(error.kind), error_body(str(error))
        self._service.metrics.other(status)
        await self._answer(status, headers, body)

    def _get(self, model: re.Match[str] | None) -> tuple[int, Headers, bytes]:
        """Return the answer to anything but an inference."""
        service, path = self._service, self._path
        if not model and path not in ("/v2", "/v2/health/live", "/v2/health/ready", *self._pages):
            raise Refusal(Kind.not_found, "no such address; GET /v2/models/MODEL, or POST /v2/models/MODEL/infer")
        if self._method not in ("GET", "HEAD"):
            raise Refusal(Kind.method, "wrong method; expected GET")
        if path in self._pages:
            return 200, PAGE, self._pages[path]
        if path == "/v2/health/live":
            return 200, [JSON], protocol.dumped({"live": True})
        if path == "/v2/health/ready":
            self._check_ready()
            return 200, [JSON], protocol.dumped({"ready": True})
        service.caller(self._headers.get(b"authorization"))
        if not model:
            return 200, [JSON], protocol.dumped(SERVER)
        service.served.check_model(model[1], model[2] or "")
        if model[3]:
            self._check_ready()
            return 200, [JSON], protocol.dumped({"name": service.served.model, "ready": True})
        return 200, [JSON], protocol.dumped(service.served.metadata())

    def _check_ready(self) -> None:
        self._service.check_ready()
        if not self._service.ready:
            raise Refusal(Kind.internal, "the model's thread has ended; start the server again")

    async def _infer(self, model: str, version: str) -> None:
        service, entry = self._service, Entry()
        why: Refusal | Gone | None = None
        service.active += 1
        try:
            status, headers, body = 200, *await self._inferred(model, version, entry)
        except Gone as error:
            service.active -= 1
            service.finished(entry, error)
            return
        except Exception as error:
            why = service.refusal(error, entry)
            status, headers, body = why.kind.http, error_headers(why.kind), error_body(str(why))
        try:
            await self._answer(status, headers, body)
        finally:
            service.active -= 1
            service.finished(entry, why)

    async def _inferred(self, model: str, version: str, entry: Entry) -> tuple[Headers, bytes]:
        service = self._service
        service.check_ready()
        entry.token = service.caller(self._headers.get(b"authorization"))
        service.served.check_model(model, version)
        if self._method != "POST":
            raise Refusal(Kind.method, "wrong method; expected POST")
        if self._headers.get(b"content-encoding", "identity") != "identity":
            raise Refusal(Kind.malformed, "compressed bodies are not taken; send it as it is")
        body = await self._body(entry)
        request = protocol.parse(service.served, body, self._headers.get(protocol.HEADER_LENGTH.encode()))
        entry.id = request.id
        wires = service.served.wire(request.tensors)
        outputs = await service.answer(wires, self._gone)
        entry.images = len(wires)
        content, length = protocol.answer(service.served, request, outputs)
        if length is None:
            return [JSON], content
        return [BINARY, (protocol.HEADER_LENGTH.encode(), b"%d" % length)], content

    async def _body(self, entry: Entry) -> bytes:
        """Return the body. One that is too long is refused by its Content-Length, or as soon as it is too long."""
        most = self._service.most_bytes
        announced = self._headers.get(b"content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > most):
            raise Refusal(Kind.too_large, f"the body has more than {most} bytes; send fewer images in a request")
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._service.limits.body_seconds):
                while True:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    parts.append(message.get("body", b""))
                    entry.bytes += len(parts[-1])
                    if entry.bytes > most:
                        raise Refusal(Kind.too_large, f"the body has more than {most} bytes; send fewer images")
                    if not message.get("more_body", False):
                        self._unread = False
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise Refusal(Kind.slow_request) from None

    async def _gone(self) -> None:
        """Return when the client has closed the connection."""
        while (await self._receive())["type"] != "http.disconnect":
            continue

    async def _answer(self, status: int, headers: Headers, body: bytes) -> None:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        if self._unread or self._service.draining:  # what is left of the body would be taken for the next request
            headers.append(CLOSE)
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
