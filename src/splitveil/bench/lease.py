"""One owner for each cell: a lease of the package filelock, and beside it the name of the job that holds it.

filelock asks the system whether an owner on this machine lives, and replaces a dead one at once. An owner on another
machine shows that it lives by touching its file; whoever sees the file unchanged for `DURATION` seconds takes it over.
That time is measured by the object that looks, so one `CellLease` must be kept for as long as a cell is looked at:
a new object at every look would never replace an owner that died on another machine.
"""

from __future__ import annotations

import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout
from pydantic import TypeAdapter, ValidationError

from ..errors import UserError
from ..storage.files import write_json

HEARTBEAT = 15.0
"""Seconds between two signs of life."""
DURATION = 180.0
"""Seconds without one after which an owner on another machine counts as dead."""


@dataclass(frozen=True)
class Owner:
    """Who holds a cell.

    Attributes:
        token: of this one claim.
        job: name of the worker, by which its driver knows it; empty where it has not been written yet.
        cell: id of the cell that it works on, of those that share the lock.
        host: name of its machine.
        pid: number of its process.
    """

    token: str = ""
    job: str = ""
    cell: str = ""
    host: str = ""
    pid: int = 0


class CellLease:
    """The lock of one cell; ``with`` releases it after a successful `claim`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one, other = (CellLease(Path(folder) / "cell.lock") for _ in range(2))
    ...     with one if one.claim("worker") else None:
    ...         other.claim("another"), other.owner().job
    (False, 'worker')
    """

    def __init__(self, path: Path, *, heartbeat: float = HEARTBEAT, duration: float = DURATION):
        self.path, self._about = path, path.with_suffix(".json")
        self._duration = duration
        self._empty: tuple[tuple[int, int, int], float] | None = None
        # The heartbeat of a lease that belongs to one thread cannot be seen by another.
        self._lease = SoftFileLease(
            path, lease_duration=duration, heartbeat_interval=heartbeat, thread_local=False, blocking=False
        )

    def claim(self, job: str = "", cell: str = "") -> bool:
        """Take the lock where it is free or its owner is dead, and return whether that succeeded.

        Raises:
            UserError: the folder cannot be written.
        """
        if not self._acquire():
            return False
        write_json(self._about, asdict(Owner(self._lease.token or "", job, cell, socket.gethostname(), os.getpid())))
        return True

    def owner(self) -> Owner | None:
        """Return the living owner, or None where the cell is free; the lock of a dead owner is removed."""
        if not self.path.exists():
            return None
        if self._acquire():
            self.release()
            return None
        try:
            about = TypeAdapter(Owner).validate_json(self._about.read_bytes(), strict=True)
        except (FileNotFoundError, ValidationError):
            about = Owner()
        record = self._lease.owner
        if record is None or record.token != about.token:  # it has just been taken, or cannot be read
            return Owner(host=record.hostname if record else "", pid=record.pid if record else 0)
        return about

    def break_(self, job: str) -> bool:
        """Remove the lock of a worker that is said to have died on another machine; return whether it held the lock.

        A worker of this machine holds no lock once it is dead, and may still live while its job counts as ended.
        """
        owner = self.owner()
        if owner is None or owner.job != job or owner.host == socket.gethostname():
            return False
        self._lease.force_break()
        return True

    @property
    def lost(self) -> bool:
        """Whether another process has taken the lock because this one gave no sign of life for too long."""
        return self._lease.compromise is not None

    def release(self) -> None:
        """Give the lock back; where it was lost, the other's is left alone."""
        if not self.lost:
            self._about.unlink(missing_ok=True)
        self._lease.release()

    def __enter__(self) -> CellLease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _acquire(self) -> bool:
        if self._lease.is_locked:  # a second acquisition by the same object would only be counted
            return False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._remove_empty()
            for _ in range(2):  # some file systems need one attempt to remove a dead owner's file, another to make ours
                try:
                    self._lease.acquire()
                except Timeout:
                    continue
                return True
        except LeaseSettingsMismatch:  # of a version with another `DURATION`
            return False
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"cannot lock {self.path}: {reason}; choose another folder for --out") from None
        return False

    def _remove_empty(self) -> None:
        """Remove a lock without a name in it that has not changed for `DURATION`: its owner died as it took the lock.

        filelock takes the name as still to come, however long that lasts.
        """
        try:
            about = self.path.stat()
        except FileNotFoundError:
            return
        now, state = time.monotonic(), (about.st_ino, about.st_mtime_ns, about.st_size)
        if self._empty is None or self._empty[0] != state:
            self._empty = state, now
        elif about.st_size == 0 and now - self._empty[1] > self._duration:
            self.path.unlink(missing_ok=True)
