"""The limits of a server: sizes, counts and deadlines."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 2**10, 2**20


@dataclass(frozen=True)
class Limits:
    """What one worker process takes. `splitveil serve` has a flag for each.

    Args:
        max_images: Most images of a request.
        max_batch: Most images that the model answers at once.
        max_queue: Most images that wait.
        max_connections: Most open connections.
        max_head: Most bytes of a request line with its headers.
        max_body: Most bytes of a body; 16 KiB and --max-images wires, at most 1 MiB, unless you say more.
        head_seconds: For the headers, from the first byte or the opening of the connection; also for a TLS handshake.
        body_seconds: For the body.
        idle_seconds: Between two requests of a connection.
        answer_seconds: For the answer, from the end of the body.
        drain_seconds: For the requests that are being answered when the server is told to stop.
    """

    max_images: int = 256
    max_batch: int = 64
    max_queue: int = 1024
    max_connections: int = 512
    max_head: int = 16 * KIB
    max_body: int | None = None
    head_seconds: float = 5
    body_seconds: float = 10
    idle_seconds: float = 15
    answer_seconds: float = 10
    drain_seconds: float = 10

    def most_bytes(self, wire: int) -> int:
        """Return the most bytes of a body.

        Args:
            wire: bytes of the wire of one image.

        >>> Limits().most_bytes(256), Limits().most_bytes(2**20), Limits(max_body=50).most_bytes(256)
        (81920, 1048576, 50)
        """
        return self.max_body if self.max_body is not None else min(16 * KIB + self.max_images * wire, MIB)
