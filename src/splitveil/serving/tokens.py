"""Tokens of clients: the server's file holds their SHA-256 only, and may change while the server runs."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError
from ..storage.files import expanded
from .refusals import Kind, Refusal

LINE = re.compile(r"([A-Za-z0-9._-]{1,64}):([0-9a-f]{64})")
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
BYTES = 32
"""Random bytes of a token."""
LONGEST = 512
"""Most letters of an ``Authorization`` header that is looked at."""
MOST_FILE = 2**20
"""Most bytes of a file of tokens."""
SETTLED = 2 * 10**9
"""Nanoseconds after which two changes of a file have different times on every usual file system."""


def digest(token: str) -> str:
    """Return what the file keeps of a token: its SHA-256. A token has 256 random bits, so it needs no salt.

    Args:
        token: the token.

    >>> digest("abc")[:8]
    'ba7816bf'
    """
    return hashlib.sha256(token.encode()).hexdigest()


def make(name: str, file: str | Path | None = None) -> tuple[str, str]:
    """Make a token; return it and its line ``name:sha256hex``, which is added to a file if one is given.

    A line of the same name that the file has already is kept: both tokens work until the older line is removed.

    Args:
        name: whose token it is, for the log.
        file: file of tokens; made, readable by its owner only, if it is not there.

    Raises:
        UserError: a name of other letters; a file that cannot be written, or that holds something else than tokens.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"name {name!r:.80}; expected 1 to 64 letters, digits and -_.")
    token = secrets.token_urlsafe(BYTES)
    line = f"{name}:{digest(token)}"
    if file is not None:
        file = expanded(file)
        try:
            with _opened(file, os.O_RDWR | os.O_CREAT | os.O_APPEND) as opened:
                text = opened.read(MOST_FILE + 1)
                parsed(text)
                start = b"" if not text or text.endswith(b"\n") else b"\n"
                opened.write(start + line.encode() + b"\n")  # one write at the end: a reader sees whole lines
        except OSError as error:
            raise UserError(f"cannot write {file}: {error.strerror}; choose another --file") from None
        except ValueError as error:
            raise UserError(f"{file} is no file of tokens: {error}; choose another --file") from None
    return token, line


def held_by_client(file: str | Path) -> Path | None:
    """Return a client's file beside a file of tokens: one called ``token`` or ``*.token`` with one of its tokens.

    Args:
        file: the server's file of tokens.

    Returns:
        None where there is no such file, or this process may not read it.
    """
    file = expanded(file)
    try:
        known = {digest for _, digest in parsed(_content(file))}
        beside = [file.with_name("token"), *sorted(file.parent.glob("*.token"))]
    except (OSError, ValueError):  # the log says so, from the start
        return None
    for place in beside:
        try:
            token = _content(place).strip()
        except (OSError, ValueError):  # not there, or not for this process: it is a client's
            continue
        if hashlib.sha256(token).digest() in known:
            return place
    return None


def _content(file: Path) -> bytes:
    with _opened(file, os.O_RDONLY) as opened:
        return opened.read(MOST_FILE + 1)


class Tokens:
    """The file of tokens, which is read again after a change, at most once a second.

    A file that is missing, unreadable or holds no line ``name:sha256hex`` lets nobody in. Other lines than those,
    empty ones and comments that begin with # make the file count as unreadable: half a file must not go unnoticed.

    Args:
        file: the file.
        clock: seconds, for tests.
    """

    def __init__(self, file: str | Path, clock: Callable[[], float] = time.monotonic):
        self.file, self._clock = expanded(file), clock
        self._known: list[tuple[str, bytes]] = []
        self._state: tuple[int, ...] | None = None
        self._next = -1.0
        self.error: str | None = None
        """Why nobody is let in; None while somebody is."""

    def name_of(self, header: str | None) -> str:
        """Return whose token a request brings.

        Args:
            header: its ``Authorization``, ``Bearer TOKEN``.

        Raises:
            Refusal: none, or an unknown one.
        """
        self.refresh()
        scheme, _, token = (header or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token or len(token) > LONGEST:
            raise Refusal(Kind.unauthenticated, "no token; send the header Authorization: Bearer TOKEN")
        asked = hashlib.sha256(token.strip().encode("utf-8", "replace")).digest()
        found = ""
        for name, known in self._known:  # all of them, so that the time does not tell which one is near
            if hmac.compare_digest(known, asked):
                found = name
        if not found:
            raise Refusal(Kind.unauthenticated, "unknown token; ask the owner of the server for one")
        return found

    def refresh(self) -> None:
        """Read the file again, if it has changed and was not looked at within the last second."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + 1
        try:
            about = self.file.stat()
            state = (about.st_mtime_ns, about.st_size, about.st_ino)
            if state != self._state:
                self._known = parsed(_content(self.file))
                # A file that has just changed may change again and keep its size and time.
                settled = time.time_ns() - about.st_mtime_ns > SETTLED
                self._state = state if settled else None
                self.error = None if self._known else "it holds no token"
        except (OSError, ValueError) as error:
            self._known, self._state = [], None
            self.error = str(error.strerror if isinstance(error, OSError) else error)


def parsed(text: bytes) -> list[tuple[str, bytes]]:
    r"""Return names and digests of a file of tokens.

    Args:
        text: content of the file.

    Raises:
        ValueError: a line that is none; the message gives its number and not its text.

    >>> parsed(b"# door\n\nann:" + b"0" * 64)[0][0]
    'ann'
    """
    if len(text) > MOST_FILE:
        raise ValueError(f"it is longer than {MOST_FILE} bytes")
    found = []
    for number, line in enumerate(text.decode("utf-8", "replace").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        match = LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is not name:sha256hex")
        found.append((match[1], bytes.fromhex(match[2])))
    return found


def _opened(file: Path, flags: int) -> BinaryIO:
    """Return an open file; a pipe or a device, which may never end or keep the server waiting, is none."""
    handle = os.open(file, flags | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError("it is no regular file")
    return os.fdopen(handle, "rb" if flags == os.O_RDONLY else "r+b")
