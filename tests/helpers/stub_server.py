"""A server in a thread that answers, fails, drips or stays silent as a test says, and keeps what it was sent."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from splitveil.deploy import bundle
from splitveil.deploy.graphs import Session

LENGTH = "Inference-Header-Content-Length"


class Asked(NamedTuple):
    """A request that has come."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def about(self) -> dict[str, Any]:
        """Its header."""
        return json.loads(self.body[: int(self.headers[LENGTH])])

    @property
    def wires(self) -> np.ndarray:
        """Its wires, uint8 (B, n)."""
        sent = np.frombuffer(self.body[int(self.headers[LENGTH]) :], np.uint8)
        return sent.reshape(self.about["inputs"][0]["shape"][0], -1)


Handler = Any  # http.server.BaseHTTPRequestHandler with `give(status, body, **headers)`
Script = Callable[[Handler, Asked, int], None]


class Stub:
    """The server: its address, its requests, and the tail behind it."""

    def __init__(self, made: bundle.Bundle, script: Script | None):
        import torch

        self.asked: list[Asked] = []
        self._script, self._lock = script, threading.Lock()
        self._name, session = made.model_name, Session(made.models["cloud"])
        self.tail = lambda wires: session({"wire": torch.from_numpy(wires.copy())}).numpy()
        self.url = ""

    def answer(self, asked: Asked, **change: Any) -> tuple[bytes, bytes]:
        """Return header and tensors of the right answer, of which a test may change entries."""
        logits = self.tail(asked.wires).astype("<f4")
        output = {"name": "logits", "datatype": "FP32", "shape": list(logits.shape)}
        output |= {"parameters": {"binary_data_size": logits.nbytes}} | change.pop("output", {})
        about = {"model_name": self._name, "id": asked.about["id"], "outputs": [output]} | change
        return json.dumps(about).encode(), logits.tobytes()

    def handle(self, handler: Handler) -> None:
        """Answer one request."""
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        asked = Asked(handler.path, dict(handler.headers), body)
        with self._lock:
            self.asked.append(asked)
            number = len(self.asked)
        if self._script is not None:
            return self._script(handler, asked, number)
        return give(handler, 200, *self.answer(asked))


def give(handler: Handler, status: int, header: bytes, tensors: bytes = b"", **headers: str) -> None:
    """Write an answer."""
    handler.send_response(status)
    if status == 200:
        handler.send_header(LENGTH, str(len(header)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(header) + len(tensors)))
    handler.end_headers()
    handler.wfile.write(header + tensors)


def refuse(handler: Handler, status: int, reason: str, **headers: str) -> None:
    """Write a refusal."""
    give(handler, status, json.dumps({"error": reason}).encode(), b"", **headers)


@contextlib.contextmanager
def serving(made: bundle.Bundle, script: Script | None = None, tls: tuple[Path, Path] | None = None) -> Iterator[Stub]:
    """Serve a bundle on a free port: with the certificate and key of ``tls``, and as ``script`` says."""
    stub = Stub(made, script)

    class Each(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                stub.handle(self)

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # a client that ends a connection is no error of the test
            pass

    server = Server(("127.0.0.1", 0), Each)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    stub.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def silent_port() -> tuple[socket.socket, str]:
    """Return a socket that takes connections and never says anything, and its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    return listening, f"http://127.0.0.1:{listening.getsockname()[1]}"
