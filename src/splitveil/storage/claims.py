"""Claims of folders, in each of which one process works at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError

LOCK = ".lock"
"""Name of the file that a working process locks; one that a killed process has left is taken over."""


@contextmanager
def claimed(folder: str | Path, work: str) -> Iterator[None]:
    """Keep every other process out of ``folder`` while the block runs; make the folder where it is missing.

    The claim is an exclusive ``flock``, which ends with the process that holds it, however that ends. Folders that
    were made for it and are still empty when the block fails are removed again.

    Args:
        folder: folder that is claimed.
        work: what is going on in the folder, for the message to others, such as "training".

    Raises:
        UserError: another process works there, or the folder cannot be made or written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as run, claimed(run, "training"):
    ...     with claimed(run, "training"):
    ...         pass
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: ... is in use by another training; wait until it ends, or choose another folder
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _held(folder / LOCK)
    except OSError as error:
        raise UserError(
            f"cannot write {folder}: {error.strerror or error}; free some space or choose another folder"
        ) from error
    if handle is None:
        raise UserError(f"{folder} is in use by another {work}; wait until it ends, or choose another folder")
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # while it is held, so that nobody else's is removed
        os.close(handle)
        with contextlib.suppress(OSError):  # not empty: there is a result to keep
            for path in made:
                path.rmdir()


def _held(path: Path) -> int | None:
    """Return the open, locked lock file; None where another process holds it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError:
            os.close(handle)
            raise
        # Its last owner may have removed the file between the two calls: then the name means another one.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        os.close(handle)
