"""Folders that appear whole or not at all: filled under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import UserError
from .claims import LOCK, claimed
from .files import is_unfinished


@contextmanager
def whole_folder(path: str | Path, work: str, check: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yield an empty folder beside ``path``; give it that name when the block succeeds.

    A process that is killed leaves either what was there before or the new folder, and perhaps the hidden folder
    ``.NAME.partial``, which the next one takes over. A folder that was there is moved away first and removed last.

    Args:
        path: folder that is made or replaced.
        work: what is going on, for the message to others, such as "export".
        check: raises where ``path`` may not be replaced; called when no other process can make it.

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
                if old.exists() and not path.exists():  # a process was killed between the two renames
                    old.rename(path)
                if check is not None:
                    check()
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


def foreign(folder: Path, ours: Container[str] = ()) -> list[Path]:
    """Return what a folder holds that is in the way of one who wants to make something there, sorted.

    The lock of a process, and what a killed one left half-written, is in nobody's way.

    Args:
        folder: need not exist; a file is in the way itself.
        ours: names that may be there.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     for name in (".lock", ".config.yaml.x1.tmp", "mine", "other"):
    ...         (Path(place) / name).touch()
    ...     [path.name for path in foreign(Path(place), {"mine"})]
    ['other']
    """
    if not folder.is_dir():
        return [folder] if folder.exists() else []
    there = (path for path in folder.iterdir() if path.name not in ours)
    return sorted(path for path in there if path.name != LOCK and not is_unfinished(path))


def _written(folder: Path) -> None:
    """Wait until the files are on the disk: a rename may otherwise survive a power failure that they do not."""
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
