"""The limits of a server: sizes, counts and deadlines."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True)
class Limits:
    """What one worker process takes.

    Attributes:
        images: most images of a request.
        batch: most images that the model answers at once.
        queue: most images that wait.
        connections: most open connections.
        head: most bytes of a request line with its headers.
        body: most bytes of a body; None: 16 KiB and `images` wires, at most 1 MiB.
        head_seconds: for the headers, from the first byte or the opening of the connection; also for a TLS handshake.
        body_seconds: for the body.
        idle_seconds: between two requests of a connection.
        answer_seconds: for the answer, from the end of the body.
        drain_seconds: for the requests that are being answered when the server is told to stop.
    """

    images: int = 256
    batch: int = 64
    queue: int = 1024
    connections: int = 512
    head: int = 16 * KIB
    body: int | None = None
    head_seconds: float = 5
    body_seconds: float = 10
    idle_seconds: float = 15
    answer_seconds: float = 10
    drain_seconds: float = 10

    def most_bytes(self, wire: int) -> int:
        """Return the most bytes of a body.

        Args:
            wire: bytes of the wire of one image.

        >>> Limits().most_bytes(256), Limits().most_bytes(2**20), Limits(body=50).most_bytes(256)
        (81920, 1048576, 50)
        """
        return self.body if self.body is not None else min(16 * KIB + self.images * wire, MIB)
