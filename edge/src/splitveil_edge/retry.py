"""Send a request until it is answered: the same bytes each time, within one deadline, and only where that can help."""

from __future__ import annotations

import email.utils
import http.client
import os
import ssl
import time
from dataclasses import dataclass, field

from .errors import ServerError, UserError, printable
from .protocol import Request, reason
from .transport import Address, Connections, Reply

AGAIN = frozenset({408, 502, 503, 504})
"""Statuses of a server that is busy, draining or away; no other one gets better by itself."""
FIRST, LONGEST = 0.1, 2.0
"""Seconds of the first and of the longest pause."""


@dataclass(frozen=True)
class Sender:
    """Sends requests to one server.

    Attributes:
        place: of the server, for the messages.
        connections: to it.
        token: that lets the requests in.
        deadline: seconds in which an answer must be here.
        retries: how often a request is sent again at most.
    """

    place: Address
    connections: Connections
    token: str | None = field(repr=False)
    deadline: float
    retries: int

    def send(self, asked: Request, start: float) -> Reply:
        """Return the answer of status 200 to a request.

        Args:
            asked: the request.
            start: when the deadline began, on the clock `time.monotonic`.

        Raises:
            UserError: the server refuses it for good.
            ServerError: no answer within the deadline and the retries, or a server that fails.
        """
        until, before = start + self.deadline, ""
        for attempt in range(self.retries + 1):
            try:
                reply = self._once(asked, until)
            except TimeoutError:
                break
            if isinstance(reply, Reply) and reply.status == 200:
                return reply
            failed = f"status {reply.status}: {reason(reply)}" if isinstance(reply, Reply) else reply
            wished = _wished(reply.headers.get("Retry-After")) if isinstance(reply, Reply) else None
            wait = pause(attempt, wished)
            if attempt == self.retries or time.monotonic() + wait >= until:
                raise ServerError(
                    f"{self.place} does not answer: {failed} (request {asked.id}, tries: {attempt + 1}); "
                    "try later, or raise deadline or retries"
                )
            before = f", after {attempt + 1} tries ({failed})"
            time.sleep(wait)
        raise ServerError(
            f"{self.place}: no answer within {self.deadline:g} s{before} (request {asked.id}); "
            "try later, or raise deadline"
        )

    def _once(self, asked: Request, until: float) -> Reply | str:
        """Return an answer that ends the matter or asks for patience, or why there is none."""
        headers = asked.headers | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        try:
            reply = self.connections.post(asked.path, headers, asked.body, until)
        except TimeoutError:
            raise
        except ssl.SSLCertVerificationError as error:
            raise ServerError(
                f"{self.place}: its certificate is not accepted ({printable(error.verify_message)}); check the "
                "address and the clock, or name the authority that signed it with ca (--ca)"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            if not _passing(error):
                spoken = "HTTP over TLS" if self.place.secure else "HTTP"
                raise ServerError(f"{self.place}: no answer in {spoken} ({_said(error)}); check the url") from None
            closed = isinstance(error, http.client.RemoteDisconnected) and not self.place.secure
            return f"no connection ({_said(error)}{'; a server with TLS wants https://' if closed else ''})"
        if reply.status != 200 and reply.status not in AGAIN:
            raise self._refusal(reply, asked)
        return reply

    def _refusal(self, reply: Reply, asked: Request) -> UserError | ServerError:
        said, status = reason(reply), reply.status
        if 300 <= status < 400:
            where = printable(reply.headers.get("Location") or "nowhere", 100)
            return ServerError(f"{self.place} redirects to {where}, which is not followed; give the server's own url")
        if not 400 <= status < 500:
            return ServerError(f"{self.place} fails with status {status}: {said}; ask its owner about {asked.id}")
        wanted = "it wants a token; name a file with one (--token-file)"
        known = "the server knows no such token; check it" if self.token else wanted
        todo = {
            401: known,
            403: "the token may not do this; ask the server's owner",
            404: "device and server must come from one export",
            413: "send fewer images at once",
        }.get(status, f"ask its owner about {asked.id}")
        return UserError(f"{self.place} refuses with status {status}: {said} ({todo})")


def pause(attempt: int, wished: float | None) -> float:
    """Return the seconds before the next try: twice as long each time, by chance half to all of it, never too early.

    Clients that were sent away together come back apart.

    Args:
        attempt: tries before this one, from 0.
        wished: what the server asked for.

    >>> 0.2 <= pause(2, None) <= 0.4, 5 <= pause(0, 5.0) <= 5.1
    (True, True)
    """
    share = 0.5 + int.from_bytes(os.urandom(4), "little") / 2**33
    return (wished or 0.0) + min(LONGEST, FIRST * 2**attempt) * share


def _wished(value: str | None) -> float | None:
    """Return the seconds that a header Retry-After asks for."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _passing(error: Exception) -> bool:
    """Return whether the next try may succeed."""
    if isinstance(error, ssl.SSLError):
        return isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    return isinstance(error, OSError | http.client.IncompleteRead)


def _said(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return printable(error.reason or str(error), 100)
    return printable(getattr(error, "strerror", None) or str(error) or type(error).__name__, 100)
