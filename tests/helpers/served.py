"""A server of a tiny bundle: asked in the process of the test, over a socket, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import small_bundle
from splitveil.deploy.bundle import Bundle
from splitveil.serving import guard
from splitveil.serving.app import Application, app
from splitveil.serving.limits import Limits
from splitveil.serving.metrics import Log
from splitveil.serving.service import Service
from splitveil.serving.settings import Settings
from splitveil.serving.tokens import Tokens


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        length = int(self.headers.get("inference-header-content-length", len(self.body)))
        return json.loads(self.body[:length])

    @property
    def logits(self) -> np.ndarray:
        (output,) = self.json["outputs"]
        length = self.headers.get("inference-header-content-length")
        if length is None:
            return np.array(output["data"], np.float32).reshape(output["shape"])
        return np.frombuffer(self.body[int(length) :], "<f4").reshape(output["shape"])


@dataclass
class Door:
    """A service and its application, with its log in memory."""

    service: Service
    application: Application
    log: io.StringIO

    @property
    def infer(self) -> str:
        return f"/v2/models/{self.service.served.model}/infer"

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | Sequence[bytes] = b"",
        headers: dict[str, str] | None = None,
        stays: bool = True,
    ) -> Answer:
        """Answer one request. A body of several parts is sent in chunks, without Content-Length."""
        whole = isinstance(body, bytes)
        parts = [body] if isinstance(body, bytes) else list(body)
        sent = {**({"content-length": str(len(body))} if whole and body else {}), **(headers or {})}
        if not whole:
            sent["transfer-encoding"] = "chunked"
        messages = [
            {"type": "http.request", "body": part, "more_body": place + 1 < len(parts)}
            for place, part in enumerate(parts)
        ]
        if not stays:
            messages.append({"type": "http.disconnect"})
        found: list[Any] = []

        async def receive():
            if messages:
                return messages.pop(0)
            return await asyncio.Event().wait()

        async def send(message):
            found.append(message)

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
        }
        await self.application(scope, receive, send)  # type: ignore[arg-type]
        if not found:
            return Answer(0, {}, b"")
        start, end = found
        assert not end.get("more_body")
        return Answer(start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, end["body"])

    def lines(self) -> list[dict[str, Any]]:
        """Return what was logged."""
        return [json.loads(line) for line in self.log.getvalue().splitlines()]


def ask(door: Door, *args: Any, **more: Any) -> Answer:
    """Return the answer to one request, see `Door.ask`."""
    return asyncio.run(door.ask(*args, **more))


def check_refusal(answer: Answer, status: int) -> None:
    """Check that an answer refuses with this status and one short line."""
    assert answer.status == status
    assert list(answer.json) == ["error"]
    assert "\n" not in answer.json["error"]
    assert len(answer.json["error"]) < 250


@contextlib.contextmanager
def door(
    bundle: Bundle, limits: Limits | None = None, tokens: Path | None = None, run: Any = None, pages: Any = None
) -> Iterator[Door]:
    log = io.StringIO()
    service = Service(bundle, limits, Tokens(tokens) if tokens else None, log=Log(log), run=run)
    try:
        yield Door(service, app(service, pages), log)
    finally:
        service.close()


@contextlib.asynccontextmanager
async def listening(opened: Door, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Listen on an ephemeral port in this process; yield the port."""
    make, connections = guard.factory(opened.application, opened.service)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for connection in list(connections):
            connection.transport.abort()
        await asyncio.sleep(0)


def one(**changes: Any) -> bytes:
    """Return a request for one image, with changes of its input."""
    about = {"name": "wire", "datatype": "UINT8", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}
    return json.dumps({"inputs": [{key: value for key, value in about.items() if value is not None}]}).encode()


def asked(wires: np.ndarray, binary: bool = True, **more: Any) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of an inference request."""
    about: dict[str, Any] = {"name": "wire", "datatype": "UINT8", "shape": list(wires.shape)}
    if not binary:
        about["data"] = wires.ravel().tolist()
        return json.dumps({"inputs": [about], **more}).encode(), {}
    raw = wires.tobytes()
    about["parameters"] = {"binary_data_size": len(raw)}
    outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [about], "outputs": outputs, **more}).encode()
    return head + raw, {"Inference-Header-Content-Length": str(len(head))}


def some_wires(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, small_bundle.SENT), np.uint8)


def expected(bundle: Bundle, wires: np.ndarray) -> np.ndarray:
    """Return the logits of the bundle's own tail."""
    import onnxruntime

    session = onnxruntime.InferenceSession(bundle.models["cloud"], providers=["CPUExecutionProvider"])
    return session.run(None, {"wire": wires})[0]  # type: ignore[return-value]


@dataclass
class Running:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    line: str
    log: Path
    context: ssl.SSLContext | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return re.findall(r"https?://[^;\s]+", self.line)[0]

    def connect(self) -> http.client.HTTPConnection:
        if self.context is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.context)

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
        connection = self.connect()
        try:
            return say(connection, method, path, body, {**self.headers, **(headers or {})})
        finally:
            connection.close()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def say(connection: http.client.HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())


@contextlib.contextmanager
def launched(settings: Settings, errors: Any = subprocess.DEVNULL) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `splitveil serve` as it looks once the command has checked its arguments; yield it and its first line."""
    process = subprocess.Popen(command(settings), stdout=subprocess.PIPE, stderr=errors, text=True, env=surroundings())
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def started(settings: Settings, log: Path, **more: Any) -> Iterator[Running]:
    """Run a server in a process of its own, with its log in a file."""
    with log.open("w") as errors, launched(settings, errors) as (process, line):
        port = re.search(r" at \S+?:(\d+)", line)
        assert port, log.read_text()
        yield Running(process, int(port[1]), line, log, **more)


def command(settings: Settings) -> list[str]:
    """Return the words that run a server with these settings."""
    return [sys.executable, "-P", "-m", "splitveil.serving", settings.to_json()]


def surroundings() -> dict[str, str]:
    """Return the environment of a child that imports the package from where this process does."""
    import splitveil

    path = [str(Path(str(splitveil.__file__)).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
