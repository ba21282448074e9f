"""The client: images in, answers out; what leaves the device is the wire and nothing else."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from . import bundle, pixels, protocol, retry, transport
from .encode import Wires
from .errors import ServerError, UserError

AT_ONCE, MOST_BYTES = 256, 2**20 - 2**14
"""Most images of a request, and most bytes of their wires: what `splitveil serve` takes unless it is told otherwise."""
LOGIT_BYTES = 16
"""Bytes of a logit in an answer that is text."""


@dataclass(frozen=True)
class Answer:
    """What the server says of one image.

    Attributes:
        label: name of the class with the largest logit.
        logits: float32 (classes,).
        id: of the request, by which the server's owner finds it in the log.
    """

    label: str
    logits: NDArray[np.float32]
    id: str


class Client:
    """Ask a server about images, of which it gets the coded and noisy wire only.

    One client may be used by several threads, and goes on in a forked process with its own connections.

    Args:
        url: of the server, ``https://HOST:PORT``; ``http://`` for this machine, or without a token.
        path: BUNDLE/device, or BUNDLE.
        token: itself, or a `pathlib.Path` of the file that holds it; None: that of ``SPLITVEIL_TOKEN``, if set.
        ca: PEM file with the certificates that are trusted instead of the system's.
        deadline: seconds that a call of `classify` may take.
        retries: how often a request is sent again at most, the same bytes each time.
        remember: how many images are remembered: an identical one gets the wire that it had. 0: none, and every call
            gives the server another look.
        resize: ``bilinear`` scales images of another size; None refuses them.

    Raises:
        UserError: a url, bundle, token, certificate or number that cannot be used.
    """

    def __init__(
        self,
        url: str,
        path: str | Path,
        *,
        token: str | os.PathLike[str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        deadline: float = 5.0,
        retries: int = 3,
        remember: int = 256,
        resize: str | None = None,
    ):
        for name, value, least in (("retries", retries, 0), ("remember", remember, 0)):
            if type(value) is not int or value < least:
                raise UserError(f"{name} {value!r:.20}; expected a whole number of {least} or more")
        if not 0 < deadline < 1e6:
            raise UserError(f"deadline {deadline!r:.20}; expected seconds above 0")
        pixels.check_resize(resize)
        self._place = transport.address(url)
        found = transport.read_token(token, self._place)
        self._connections = transport.Connections(self._place, transport.tls_context(self._place, ca))
        self.device = bundle.read(path)
        self._wires = Wires(self.device, remember)
        self._sender = retry.Sender(self._place, self._connections, found, deadline, retries)
        self._resize = resize
        _CLIENTS.add(self)

    def classify(self, images: pixels.Images | Sequence[pixels.Images]) -> list[Answer]:
        """Return the server's answer to each image.

        Args:
            images: uint8 (B, H, W, C), or a list of (H, W, C), whose sizes may differ where ``resize`` is set.

        Raises:
            UserError: images of another kind, or a request that the server refuses for good.
            ServerError: no answer in time, a server that fails, or one that answers with what it should not.
        """
        start = time.monotonic()
        ready = pixels.prepare(images, self.device.image, self._resize)
        answers: list[Answer] = []
        answered = transport.MOST_ANSWERED // (LOGIT_BYTES * len(self.device.classes))
        some = max(1, min(AT_ONCE, MOST_BYTES // self.device.bytes_per_image, answered))
        for i in range(0, len(ready), some):
            answers += self._some(ready[i : i + some], start)
        return answers

    def close(self) -> None:
        """Close the connections that are kept; the next call opens one again."""
        self._connections.forget()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, where: TracebackType | None) -> None:
        self.close()

    def _some(self, images: pixels.Images, start: float) -> list[Answer]:
        asked = protocol.request(self.device, self._wires.of(images), os.urandom(8).hex())
        reply = self._sender.send(asked, start)
        try:
            logits = protocol.logits(reply, self.device, asked)
        except protocol.WrongAnswer as error:
            raise ServerError(f"{self._place} answers with {error}; ask its owner about request {asked.id}") from None
        return [Answer(self.device.classes[row.argmax()], row, asked.id) for row in logits]


_CLIENTS: weakref.WeakSet[Client] = weakref.WeakSet()
_HELD: list[Client] = []
_FORKING = threading.Lock()
"""Held while a thread forks: of two that fork at once, each must give back what it has taken itself."""


def _before_fork() -> None:
    """Wait until no thread is amid making wires: what it holds would be held forever in the child."""
    _FORKING.acquire()
    _HELD.extend(_CLIENTS)
    for client in _HELD:
        client._wires.lock.acquire()


def _after_fork() -> None:
    while _HELD:
        _HELD.pop()._wires.lock.release()
    _FORKING.release()


def _in_child() -> None:
    """Leave the connections to the parent: two processes on one would read each other's answers."""
    for client in _HELD:
        client._connections.forget()
    _after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
