"""Folders that appear whole or not at all: filled under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from .claims import claimed


@contextmanager
def whole_folder(path: str | Path, work: str) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; give it that name when the block succeeds.

    A process that is killed leaves either what was there before or the new folder, and perhaps the hidden folder
    ``.NAME.partial``, which the next one takes over. A folder that was there is moved away first and removed last.

    Args:
        path: folder that is made or replaced.
        work: what is going on, for the message to others, such as "export".

    Raises:
        UserError: another process makes the same folder, it cannot be written, or the disk is full.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     with whole_folder(Path(place) / "made", "example") as folder:
    ...         _ = (folder / "file").write_text("all of it")
    ...     sorted(str(found.relative_to(place)) for found in Path(place).rglob("*"))
    ['made', 'made/file']
    """
    path = Path(path)
    partial = path.parent / f".{path.name[:200]}.partial"
    try:
        with claimed(partial, work):
            new, old = partial / "new", partial / "old"
            try:
                for stale in (new, old):
                    shutil.rmtree(stale, ignore_errors=True)
                new.mkdir()
                yield new
                _written(new)
                if path.exists():
                    path.rename(old)
                new.rename(path)
            finally:
                if old.exists() and not path.exists():
                    old.rename(path)
                for stale in (new, old):
                    shutil.rmtree(stale, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}; free some space or choose another folder") from error
    finally:
        with contextlib.suppress(OSError):  # another process has it, or it is gone
            partial.rmdir()


def _written(folder: Path) -> None:
    """Wait until the files are on the disk: a rename may otherwise survive a power failure that they do not."""
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
