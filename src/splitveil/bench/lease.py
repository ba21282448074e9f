"""One owner for each cell: a lock file that names its process, and is taken over once that process is dead.

A lock is made whole by linking a finished file to its name, which the file system lets one process do. Whether its
owner lives is asked of the system where that is the same machine (process and start time, so that a number given to
another process deceives nobody), and elsewhere read from the heartbeat: the file's age by the file system's own clock,
so that machines whose clocks differ agree. A lock is taken over, released and broken under ``flock`` on the very file
that goes: of two takers, the second finds that the name has come to mean another file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from ..errors import UserError

HEARTBEAT = 15.0
"""Seconds between two signs of life."""
STALE = 180.0
"""Seconds without one after which the owner on another machine counts as dead."""


@dataclass(frozen=True)
class Process:
    """A process that can be recognized later."""

    host: str
    """Machine, boot and process namespace: where they are equal, process numbers mean the same."""
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    started: str

    @classmethod
    def here(cls) -> Process:
        """This process."""
        return cls(_host(), os.getpid(), _start_time(os.getpid()))

    def alive(self) -> bool | None:
        """Whether it lives; None where this machine cannot know.

        >>> Process.here().alive()
        True
        """
        if self.host != _host():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True  # another user's: it lives, and its start time may be hidden
        return self.started == _start_time(self.pid)


@dataclass(frozen=True)
class Owner:
    """What a lock file says."""

    process: Process
    token: str
    """Of this one claim."""
    job: str
    """Of the worker, by which its driver knows it."""

    @classmethod
    def read(cls, path: Path) -> Owner | None:
        """None: there is no lock, or none that can be read."""
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes(), strict=True)
        except (FileNotFoundError, ValidationError):
            return None


class Lock:
    """A claim that this process holds; ``with`` releases it. `claim` makes one."""

    def __init__(self, path: Path, owner: Owner, heartbeat: float):
        self.path, self.owner = path, owner
        self._lost, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._beat, args=(heartbeat,), daemon=True, name=f"lock {path.name}")
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether another has taken it: this process slept so long that it was thought dead."""
        return self._lost.is_set()

    def release(self) -> None:
        """Give it back; where it was lost, the other's is left alone."""
        self._stop.set()
        self._thread.join()
        _remove(self.path, lambda owner: owner == self.owner)

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _beat(self, every: float) -> None:
        while not self._stop.wait(every):
            with contextlib.suppress(OSError):  # a network disk that hiccups: the next beat will do
                if Owner.read(self.path) != self.owner:
                    self._lost.set()
                    return
                os.utime(self.path)


def claim(path: Path, job: str = "", *, heartbeat: float = HEARTBEAT, stale: float = STALE) -> Lock | None:
    """The lock, where it is free or its owner is dead; None where another process has it.

    Raises:
        UserError: the folder cannot be written, or its file system has no links or locks.
    """
    owner = Owner(Process.here(), secrets.token_hex(8), job)
    own = path.with_name(f".{path.name}.{owner.token}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(json.dumps(asdict(owner)), encoding="utf-8")
        if not (_link(own, path) or _take_over(own, path, stale)):
            return None
    except OSError as error:
        raise UserError(f"cannot lock {path}: {error.strerror or error}; choose another folder for --out") from None
    finally:
        with contextlib.suppress(OSError):
            own.unlink()
    return Lock(path, owner, heartbeat)


def holder(path: Path, *, now: float | None = None, stale: float = STALE) -> Owner | None:
    """The living owner of a lock; None where it is free, or its owner is dead.

    Args:
        now: `clock` of the folder, where many locks are asked for at once.
    """
    owner = Owner.read(path)
    return owner if owner and not _dead(path, owner, now, stale) else None


def clock(folder: Path) -> float:
    """The time by the clock of the file system that holds ``folder``, in seconds.

    Raises:
        UserError: the folder cannot be written.
    """
    probe = folder / ".clock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        os.utime(probe)
        return probe.stat().st_mtime
    except OSError as error:
        raise UserError(f"cannot write {probe}: {error.strerror or error}; choose another folder for --out") from None


def break_(path: Path, job: str) -> bool:
    """Remove the lock of a worker that is said to be dead, unless this machine sees it alive; whether it held it."""
    return _remove(path, lambda owner: owner is not None and owner.job == job and not owner.process.alive())


def _dead(path: Path, owner: Owner | None, now: float | None, stale: float) -> bool:
    alive = owner.process.alive() if owner else None
    if alive is not None:
        return not alive
    try:
        return (clock(path.parent) if now is None else now) - path.stat().st_mtime > stale
    except FileNotFoundError:
        return True


def _link(own: Path, path: Path) -> bool:
    try:
        os.link(own, path)
    except FileExistsError:
        return own.stat().st_nlink == 2  # a network disk may do it and lose the answer
    return True


def _take_over(own: Path, path: Path, stale: float) -> bool:
    with _alone(path) as same:
        if not same:
            return _link(own, path)
        if not _dead(path, Owner.read(path), None, stale):
            return False
        os.replace(own, path)
        return True


def _remove(path: Path, of: Callable[[Owner | None], bool]) -> bool:
    with _alone(path) as same:
        if not same or not of(Owner.read(path)):
            return False
        path.unlink()
        return True


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Whether nobody else may replace or remove the file while the block runs; False: it is gone or another's turn."""
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        yield False
        return
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)  # ends with this process, if need be
        try:
            same = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            same = False
        try:
            yield same
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)  # closing is not enough where a process was forked meanwhile


def _host() -> str:
    parts = [socket.gethostname()]
    for name, read in (("/proc/sys/kernel/random/boot_id", Path.read_text), ("/proc/self/ns/pid", Path.readlink)):
        with contextlib.suppress(OSError):  # not Linux: the name must do
            parts.append(str(read(Path(name))).strip())
    return " ".join(parts)


def _start_time(pid: int) -> str:
    """When a process began, in the system's own words; empty where there is none, or only its corpse."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return ""
        command = ["ps", "-o", "lstart=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return "" if fields[0] in "ZX" else fields[19]
