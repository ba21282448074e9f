"""Why a request is not answered, with the codes of HTTP and of gRPC. Both doors of the server raise the same."""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """A reason, with its status in HTTP and the name of its status in gRPC; its own name stands in the metrics."""

    malformed = (400, "INVALID_ARGUMENT", "the request is malformed")
    unauthenticated = (401, "UNAUTHENTICATED", "the token is missing or unknown")
    not_found = (404, "NOT_FOUND", "there is nothing of this name")
    method = (405, "UNIMPLEMENTED", "this method is not offered here")
    slow_request = (408, "DEADLINE_EXCEEDED", "the request came too slowly")
    too_large = (413, "RESOURCE_EXHAUSTED", "the request is too large")
    internal = (500, "INTERNAL", "the server failed")
    busy = (503, "UNAVAILABLE", "the server is busy; ask again later")
    draining = (503, "UNAVAILABLE", "the server is stopping; ask again later")
    deadline = (504, "DEADLINE_EXCEEDED", "the answer took too long")

    @property
    def http(self) -> int:
        """Return the status of HTTP."""
        return self.value[0]

    @property
    def grpc(self) -> str:
        """Return the name of the status of gRPC."""
        return self.value[1]


RETRY_AFTER = 1
"""Seconds after which a client may ask again where the server is busy or stops."""


class Refusal(Exception):
    """A request that is not answered: one line for the client, without a wire, a token or a traceback.

    Args:
        kind: why.
        message: one line; None: the usual one of this kind.

    >>> error = Refusal(Kind.busy)
    >>> error.kind.http, str(error)
    (503, 'the server is busy; ask again later')
    """

    def __init__(self, kind: Kind, message: str | None = None):
        super().__init__(message or kind.value[2])
        self.kind = kind


class Gone(Exception):
    """The client has left before its answer: nobody is to be answered."""
