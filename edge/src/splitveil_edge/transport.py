"""One request over HTTP or HTTPS on connections that are kept, never beyond a deadline, never to another address."""

from __future__ import annotations

import http.client
import io
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .errors import UserError, printable

MOST_ANSWERED = 4 * 2**20
"""Most bytes of an answer: that of 256 images with 1,000 classes in text."""
MOST_RECEIVED = 2 * MOST_ANSWERED
"""Most bytes that are read for an answer, headers, chunks and all else that is no content included."""
EXPECTED = "expected https://HOST:PORT, or http:// for this machine"
TOKEN = "SPLITVEIL_TOKEN"
CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""What a connection raises that the other side has closed."""


class Address(NamedTuple):
    """Where a server listens.

    Attributes:
        secure: whether it speaks TLS.
        host: name or number.
        port: of the server.
        prefix: path before that of the protocol, without a slash at its end.
    """

    secure: bool
    host: str
    port: int
    prefix: str

    @property
    def loopback(self) -> bool:
        """Return whether it is this machine."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.secure else 'http'}://{host}:{self.port}{self.prefix}"


def address(url: str) -> Address:
    """Read the address of a server.

    Args:
        url: ``http://`` or ``https://``, a host, and a port or a path where it has one.

    Raises:
        UserError: anything else, such as a password in it.

    >>> address("https://models.example.org/v1/")
    Address(secure=True, host='models.example.org', port=443, prefix='/v1')
    """
    shown = printable(url.partition("@")[2] or url, 80)
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").encode("idna" if ":" not in (parts.hostname or "") else "ascii").decode()
        prefix = parts.path.rstrip("/").encode("ascii").decode()
    except ValueError:  # which a UnicodeError is, too
        raise UserError(f"url {shown!r}; {EXPECTED}") from None
    if parts.scheme not in ("http", "https") or not host or any(letter <= " " for letter in prefix):
        raise UserError(f"url {shown!r}; {EXPECTED}")
    if parts.username is not None or parts.query or parts.fragment:
        raise UserError(f"url {shown!r} with a user, ? or #; {EXPECTED}, and give a token in a file or in {TOKEN}")
    secure = parts.scheme == "https"
    return Address(secure, host, port if port is not None else (443 if secure else 80), prefix)


def read_token(given: str | os.PathLike[str] | None, place: Address) -> str | None:
    """Return the token, which a plain connection to another machine never carries.

    Args:
        given: token, or path of a file that holds it; None: that of the environment, `TOKEN`, if there is one.
        place: where it is sent.

    Raises:
        UserError: a file that cannot be read, what cannot be a token, a plain connection to another machine.
    """
    if isinstance(given, os.PathLike):
        try:
            token = Path(given).read_text("ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not plain ASCII"
            raise UserError(f"cannot read the token in {os.fspath(given)}: {reason}; name another file") from None
        if not token:
            raise UserError(f"{os.fspath(given)} is empty; expected the token that the server's owner gave you")
    else:
        token = os.environ.get(TOKEN, "").strip() if given is None else given
    if not token:
        return None
    if not token.isascii() or not token.isprintable() or " " in token:
        raise UserError("the token holds a space or a letter that no token has; copy it again, on one line")
    if not place.secure and not place.loopback:
        raise UserError(f"a token for {place}, where anybody on the way can read it; use https://")
    return token


def tls_context(place: Address, ca: str | os.PathLike[str] | None) -> ssl.SSLContext | None:
    """Return what checks the server's certificate and name; None for a plain connection.

    Args:
        place: of the server.
        ca: file with the certificates that are trusted instead of the system's.

    Raises:
        UserError: a file that holds none, or one for a plain connection.
    """
    if not place.secure:
        if ca is not None:
            raise UserError(f"a certificate authority for {place}, which is not encrypted; use https://")
        return None
    try:
        return ssl.create_default_context(cafile=None if ca is None else os.fspath(ca))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = "no certificate in it" if isinstance(error, ssl.SSLError) else getattr(error, "strerror", error)
        raise UserError(f"cannot read certificates from {os.fspath(ca or '')}: {reason}; expected PEM") from None


class Reply(NamedTuple):
    """What a server answered.

    Attributes:
        status: number of HTTP.
        headers: by name, in any case.
        body: content.
    """

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class Connections:
    """Connections to one server, each used by one thread at a time and kept for the next request.

    Args:
        place: of the server.
        context: from `tls_context`.
    """

    def __init__(self, place: Address, context: ssl.SSLContext | None):
        self._place, self._context = place, context
        self._idle: list[_Connection] = []

    def post(self, path: str, headers: Mapping[str, str], body: bytes, until: float) -> Reply:
        """Send a request and return the answer.

        A kept connection may have been closed by the server meanwhile: then the same bytes go over a new one.

        Args:
            path: below the server's prefix.
            headers: of the request.
            body: of the request.
            until: deadline on the clock `time.monotonic`.

        Raises:
            TimeoutError: no whole answer until then.
            OSError: no connection, or one that broke.
            http.client.HTTPException: something that is not HTTP, or an answer that is cut off or too long.
        """
        try:
            kept = self._idle.pop()
        except IndexError:
            kept = None
        if kept is not None:
            try:
                return self._over(kept, path, headers, body, until)
            except CLOSED:
                self.forget()
        return self._over(_Connection(self._place, self._context), path, headers, body, until)

    def forget(self) -> None:
        """Close the connections that wait for a next request."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _over(self, connection: _Connection, path: str, headers: Mapping[str, str], body: bytes, until: float) -> Reply:
        connection.until = until
        whole = False
        try:
            try:
                connection.request("POST", self._place.prefix + path, body, dict(headers))
            except CLOSED:
                if connection.sock is None:
                    raise
                # A server that refuses a request may close before it has read it: its answer is what counts.
            response = connection.getresponse()
            try:
                content = response.read(MOST_ANSWERED + 1)
            except ValueError:  # http.client tries to read a chunk of −5 bytes
                raise http.client.HTTPException("a chunk of a wrong length") from None
            if len(content) > MOST_ANSWERED:
                raise http.client.HTTPException(f"an answer of more than {MOST_ANSWERED:,} bytes")
            if response.length:
                raise http.client.IncompleteRead(content, response.length)
            whole = response.isclosed() and not response.will_close
            return Reply(response.status, response.headers, content)
        finally:
            if whole:
                self._idle.append(connection)
            else:
                connection.close()


class _Connection(http.client.HTTPConnection):
    """A connection on which every wait ends at ``until``: http.client's own limit starts anew with each byte."""

    until = 0.0

    def __init__(self, place: Address, context: ssl.SSLContext | None):
        super().__init__(place.host, place.port)
        self._context = context
        if context is not None:
            self.default_port = 443

    def left(self) -> float:
        """Return the seconds until the deadline, if there are any."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def connect(self) -> None:
        """Connect to the first of the host's addresses that answers."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for i, (family, kind, protocol, _, where) in enumerate(found):
            opened = socket.socket(family, kind, protocol)
            try:
                opened.settimeout(self.left() / (len(found) - i))
                opened.connect(where)
                opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._context is not None:
                    opened.settimeout(self.left())
                    opened = self._context.wrap_socket(opened, server_hostname=self.host)
            except ssl.SSLError:
                opened.close()
                raise
            except OSError:
                opened.close()
                if i == len(found) - 1:
                    raise
            else:
                self.sock: Any = _Timed(opened, self)
                return


class _Timed:
    """As much of a socket as http.client uses, whose waits end at the connection's deadline."""

    def __init__(self, opened: socket.socket, connection: _Connection):
        self._socket, self._connection = opened, connection
        self.close = opened.close

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        left = memoryview(data)
        while left:
            self._socket.settimeout(self._connection.left())
            left = left[self._socket.send(left) :]

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return what the server sends, as a file."""
        return io.BufferedReader(_Incoming(self._socket, self._connection))


class _Incoming(io.RawIOBase):
    def __init__(self, opened: socket.socket, connection: _Connection):
        self._socket, self._connection = opened, connection
        self._file: Any = opened.makefile("rb", buffering=0)  # keeps the socket open until the answer is read
        self._room = MOST_RECEIVED

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._connection.left())
        got = self._file.readinto(buffer)
        self._room -= got or 0
        if self._room < 0:  # http.client reads a chunk of −1 bytes, or headers again and again, without an end
            raise http.client.HTTPException(f"an answer of more than {MOST_RECEIVED:,} bytes")
        return got

    def close(self) -> None:
        self._file.close()
        super().close()
