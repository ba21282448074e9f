"""Files that appear whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError, shown

LONGEST_NAME = 255
"""Most bytes of a file's name that every usual file system takes."""
UNFINISHED = re.compile(r"\..+\.tmp(\.\w+)?")
"""Names under which files are written; up to version 0.2.0 they ended as the finished file does."""

REFUSALS = frozenset(
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EROFS"),
        *("ELOOP", "ENOTDIR", "EISDIR"),
        *("ENOSPC", "EDQUOT", "EIO", "ESTALE", "ENOTCONN"),  # a full disk, and one that is gone
    )
    if hasattr(errno, name)
)
"""What the system says of a path that a user can do something about; any other error is a fault of the program."""


@contextmanager
def within_reach() -> Iterator[None]:
    """Raise a UserError where the system refuses a path within the block, as of another user's folder.

    Even to ask whether a file is there raises an error, where the rights of a folder above it are missing.

    Raises:
        UserError: no rights, a path that is too long, a full disk or one that is gone.

    >>> with within_reach():
    ...     raise PermissionError(errno.EACCES, "Permission denied", "runs/a")
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: runs/a: Permission denied; check the path and its rights, or choose another one
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
        if error.errno == errno.ENAMETOOLONG:
            whole = "name" if any(len(os.fsencode(part)) > LONGEST_NAME for part in name.split("/")) else "path"
            raise UserError(f"{name}: the {whole} is too long; choose a shorter one") from error
        if error.errno in REFUSALS:
            reason = error.strerror or str(error)
            raise UserError(f"{name}: {reason}; check the path and its rights, or choose another one") from error
        raise


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; rename it onto ``path`` when the block succeeds.

    The temporary name begins with a dot and ends with ``.tmp``, so a library that goes by the ending must be told
    the format.

    Args:
        path: file that is made or replaced.

    Raises:
        UserError: the folder cannot be written or the disk is full; nothing is left behind.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A part of its name, as a long one leaves no room for more letters. The ending is none that anybody looks for:
        # `glob("*.json")` finds hidden files too, so another process would read what is not written yet.
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:50]}.", suffix=".tmp", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}; free some space or choose another folder") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def is_lost(path: Path) -> bool:
    """Return whether a file is gone, or empty, as a machine that fails may leave it.

    Args:
        path: of a file that is never empty.

    >>> is_lost(Path(__file__)), is_lost(Path("runs/none"))
    (False, True)
    """
    return not path.is_file() or not path.stat().st_size


def is_unfinished(path: Path) -> bool:
    """Return whether a name is one under which `atomic_write` writes.

    >>> [is_unfinished(Path(name)) for name in (".a.json.x1.tmp", ".a.json.x1.tmp.json", "a.tmp", ".lock")]
    [True, True, False, False]
    """
    return UNFINISHED.fullmatch(path.name) is not None


def remove_unfinished(*folders: Path) -> None:
    """Remove what killed processes have left half-written in these folders, but not below them.

    Args:
        folders: each claimed by this process, so that nobody else is writing there; one need not exist.
    """
    for folder in folders:
        for path in folder.iterdir() if folder.is_dir() else ():
            if is_unfinished(path):
                path.unlink(missing_ok=True)


def whole_files(folder: str | Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a pattern, sorted, without hidden ones.

    A process that was killed may have left a file half-written under a hidden name, which `Path.glob` finds.

    Args:
        folder: where they are; it need not exist.
        pattern: such as ``*.json``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     for name in ("b.json", "a.json", ".c.json"):
    ...         (Path(place) / name).touch()
    ...     [file.name for file in whole_files(place, "*.json")]
    ['a.json', 'b.json']
    """
    return sorted(path for path in Path(folder).glob(pattern) if not path.name.startswith("."))


def expanded(path: str | Path) -> Path:
    """Return the path with ``~`` replaced.

    Args:
        path: as a user writes it.

    Raises:
        UserError: that user has no home; a name in it that no usual file system takes.

    >>> expanded("a/" + "n" * 300)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: 'nnnn... (300 letters) is too long a name; expected at most 255 bytes
    """
    try:
        found = Path(path).expanduser()
    except RuntimeError:
        name = str(path) if len(str(path)) <= LONGEST_NAME else shown(str(path))
        raise UserError(f"{name}: no such user, or one without a home; write the folder out, or ./~name") from None
    if too_long := next((part for part in found.parts if len(os.fsencode(part)) > LONGEST_NAME), None):
        raise UserError(f"{shown(too_long)} is too long a name; expected at most {LONGEST_NAME} bytes")
    if "\0" in str(found):
        raise UserError(f"{shown(str(found))} holds a character that no path can hold; leave it out")
    return found


def remove_file(path: Path) -> None:
    """Remove a file if it is there.

    Args:
        path: of the file.

    Raises:
        UserError: it cannot be removed, as a folder.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"cannot replace {path}: {error.strerror}; expected a file; move it away") from None


def temporary(error: OSError) -> UserError:
    """Return the error for a temporary file that cannot be written.

    Args:
        error: what the system says.
    """
    where = os.environ.get("TMPDIR") or "/tmp"
    reason = error.strerror or str(error)
    return UserError(f"cannot write a temporary file in {where}: {reason}; free some space there, or set TMPDIR")


def write_text(path: str | Path, text: str) -> None:
    """Write text to a file in one rename.

    Args:
        path: file that is made or replaced.
        text: its content.

    Raises:
        UserError: the folder cannot be written or the disk is full; what was there stays.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as indented JSON in one rename; NaN is refused, as JSON has none.

    Args:
        path: file that is made or replaced.
        value: its content.

    Raises:
        UserError: the folder cannot be written or the disk is full; what was there stays.
    """
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Return the text of a JSON file, indented.

    Args:
        value: its content.

    Raises:
        ValueError, TypeError: it holds NaN, infinity or an object that JSON has no form for.
    """
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def json_digest(value: Any) -> str:
    """Return the SHA-256 of a value as JSON, whatever the order of its names.

    Args:
        value: what JSON can hold; read back from a file it has the same digest.

    >>> json_digest({"a": 1, "b": [2.5]}) == json_digest({"b": [2.5], "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def save_tensors(path: str | Path, value: Any) -> None:
    """Write a value with ``torch.save`` in one rename.

    Args:
        path: file that is made or replaced.
        value: its content.

    Raises:
        UserError: the folder cannot be written or the disk is full; what was there stays.
    """
    import torch

    with atomic_write(path) as temporary:
        try:
            torch.save(value, temporary)
        except RuntimeError as error:  # it names positions in its own archive instead of the system's error
            raise OSError("the disk is full, or a limit on the size of files is reached") from error


def write_safetensors(path: str | Path, state: Mapping[str, Any], metadata: dict[str, str] | None = None) -> None:
    """Write the tensors of a state as safetensors in one rename; what else it holds is left out.

    Args:
        path: file that is made or replaced.
        state: names and tensors, such as `torch.nn.Module.state_dict` gives.
        metadata: texts that the file's header holds.

    Raises:
        UserError: the folder cannot be written or the disk is full; what was there stays.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items() if torch.is_tensor(value)}
    held = Counter(value.untyped_storage().data_ptr() for value in tensors.values())
    # Tied weights are written twice, as the format has no other way.
    tensors = {
        name: value.clone() if held[value.untyped_storage().data_ptr()] > 1 else value
        for name, value in tensors.items()
    }
    with atomic_write(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # it wraps the system's error: the message must say that a disk is full
            raise OSError(str(error)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def is_safetensors(path: Path) -> bool:
    """Return whether a file begins as safetensors do, whatever its name is: the length of a header, then its brace.

    Args:
        path: file that is looked at.

    >>> is_safetensors(Path(__file__))
    False
    """
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") <= path.stat().st_size - 8
