"""Folders that the system refuses, as those of somebody else: one line with the path, exit code 2."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

import splitveil as sv
from commands import TINY, answer

CALLS = ("stat", "lstat", "scandir", "listdir", "mkdir", "open")
COMMANDS = [
    ("attack", "{}/r", "--attack", "linear"),
    ("train", *TINY, "--out", "{}/new"),
    ("compare", "{}/a", "{}/b"),
    ("report", "{}/bench"),
    ("audit", "{}/r"),
    ("diagnose", "{}/r", "--out", "new"),
    ("export", "{}/r", "--out", "bundle"),
    ("harden", "{}/r", "--max-drop", "1", "--out", "new"),
    ("bench", "smoke", "--out", "{}/bench"),
]


def refuse(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Let the system refuse all below a folder: tests may run as root, whom it refuses nothing."""
    for name in CALLS:
        called: Any = getattr(os, name)

        def refusing(path: Any = ".", *args: Any, called: Any = called, **kwargs: Any) -> Any:
            if not isinstance(path, int) and os.fspath(path).startswith(f"{folder}{os.sep}"):
                raise OSError(number, os.strerror(number), os.fspath(path))
            return called(path, *args, **kwargs)

        monkeypatch.setattr(os, name, refusing)


@pytest.fixture
def there(tmp_path, monkeypatch) -> Path:
    (tmp_path / "theirs").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "theirs"


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM], ids=["EACCES", "EPERM"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_without_rights_is_one_line(command, number, there, monkeypatch):
    refuse(monkeypatch, there, number)
    code, error = answer(*(word.format(there) for word in command))
    assert (code, error.count("\n")) == (2, 1), error
    assert str(there) in error
    assert os.strerror(number) in error
    assert [path.name for path in there.parent.iterdir()] == ["theirs"]


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EROFS], ids=["ESTALE", "EIO", "EROFS"])
def test_a_disk_that_is_gone_is_one_line(number, there, monkeypatch):
    refuse(monkeypatch, there, number)
    code, error = answer("attack", f"{there}/r", "--attack", "linear")
    assert (code, error.count("\n")) == (2, 1), error
    assert f"{there}/r/config.yaml: {os.strerror(number)}; check the path and its rights" in error


def test_other_errors_of_the_system_are_no_mistakes_of_the_user(there, monkeypatch):
    refuse(monkeypatch, there, errno.EBUSY)
    with pytest.raises(OSError, match=os.strerror(errno.EBUSY)):
        answer("attack", f"{there}/r", "--attack", "linear")


def test_a_folder_without_rights_is_one_line_from_python(there, monkeypatch):
    refuse(monkeypatch, there, errno.EACCES)
    with pytest.raises(sv.UserError, match=r"theirs/r/model\.json: Permission denied; check the path and its rights"):
        sv.load(there / "r")
