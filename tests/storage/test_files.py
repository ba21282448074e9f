"""Files appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from splitveil import runs
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.storage import files
from splitveil.storage.files import atomic_write, write_json, write_text


@contextlib.contextmanager
def little_room(size: int = 4096):
    """No file may grow beyond ``size`` bytes: the system's own error, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_text_and_json_are_written(tmp_path):
    write_text(tmp_path / "new" / "folder" / "a.txt", "grün\n")
    assert (tmp_path / "new/folder/a.txt").read_text(encoding="utf-8") == "grün\n"
    write_json(tmp_path / "a.json", {"a": [1, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None]}
    assert {p.name for p in tmp_path.iterdir()} == {"new", "a.json"}


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        assert temporary.parent == tmp_path  # on the same disk, so that the rename is one step
        assert list(tmp_path.glob("*.txt")) == [path]  # nobody who looks for such files finds the one being written
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError("bug"), KeyboardInterrupt()])
def test_a_failing_block_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(type(error)), atomic_write(path) as temporary:  # noqa: PT012 (the block is what fails)
        temporary.write_text("half")
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_nan_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"mse": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match=r"cannot write .*a\.txt: No space left on device; free some space") as error:
        write_text(tmp_path / "a.txt", "text")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_text_beyond_the_room_is_one_line(tmp_path):
    with little_room(), pytest.raises(UserError, match=r"cannot write .*a\.txt: File too large"):
        write_text(tmp_path / "a.txt", "x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_the_room_are_one_line(tmp_path):
    model = SplitModel(nn.Conv2d(3, 64, 5), nn.Flatten())
    with little_room(), pytest.raises(UserError, match=r"cannot write .*model\.safetensors: ") as error:
        runs.save_weights(model, tmp_path / "model.safetensors")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_tensors_beyond_the_room_are_one_line_that_names_the_disk(tmp_path):
    with little_room(), pytest.raises(UserError, match=r"cannot write .*a\.pt: the disk is full, or a limit") as error:
        files.save_tensors(tmp_path / "a.pt", torch.zeros(100_000))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "a").write_text("file")
    with pytest.raises(UserError, match=r"cannot write .*: "):
        write_text(tmp_path / "a" / "b.txt", "text")


def test_new_files_have_ordinary_rights(tmp_path):
    (tmp_path / "ordinary").touch()
    write_text(tmp_path / "ours", "")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_weights_come_back(tmp_path):
    model = SplitModel(nn.Conv2d(3, 4, 3), nn.Flatten(), mean=(0.1, 0.2, 0.3))
    runs.save_weights(model, tmp_path / "w")
    saved = load_file(tmp_path / "w")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(saved[k], v) for k, v in model.state_dict().items())
