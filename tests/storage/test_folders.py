"""Folders appear whole or not at all, and leftovers of a killed process are in nobody's way."""

from __future__ import annotations

from pathlib import Path

import pytest

from splitveil.errors import UserError
from splitveil.storage.files import remove_unfinished
from splitveil.storage.folders import foreign, whole_folder


def made(path: Path, text: str = "new") -> None:
    with whole_folder(path, "test") as folder:
        (folder / "file").write_text(text)


def test_what_was_there_comes_back_after_a_kill_between_the_two_renames(tmp_path):
    path, partial = tmp_path / "made", tmp_path / ".made.partial"
    made(path, "old")
    partial.mkdir()
    path.rename(partial / "old")  # the process died here
    with pytest.raises(ZeroDivisionError), whole_folder(path, "test"):
        raise ZeroDivisionError
    assert (path / "file").read_text() == "old"
    made(path)
    assert (path / "file").read_text() == "new"
    assert not partial.exists()


def test_the_folder_is_checked_when_nobody_else_can_make_it(tmp_path):
    path = tmp_path / "made"
    made(path, "of somebody else")

    def check() -> None:
        raise UserError("taken")

    with pytest.raises(UserError, match="taken"), whole_folder(path, "test", check):
        pytest.fail("it may not begin")
    assert (path / "file").read_text() == "of somebody else"
    assert not (tmp_path / ".made.partial").exists()


def test_only_what_is_half_written_is_removed(tmp_path):
    for name in (".a.x1.tmp", ".a.json.x1.tmp.json", ".hidden", "a.tmp"):
        (tmp_path / name).touch()
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / ".b.x1.tmp").touch()
    remove_unfinished(tmp_path, tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hidden", "a.tmp", "below"]
    assert (tmp_path / "below" / ".b.x1.tmp").exists()


def test_a_file_is_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").touch()
    assert foreign(tmp_path / "file") == [tmp_path / "file"]
    assert foreign(tmp_path / "none") == []
