"""The served demo: what it needs is said before it works, what is there is used again, and it is all in one folder."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from PIL import Image

import certificates
import small_bundle
from splitveil.errors import UserError
from splitveil.serving import demo, tokens


@pytest.fixture
def quick(monkeypatch):
    """Neither a training nor an export, and no runtime that a browser could run."""
    done = []
    monkeypatch.setattr(demo, "_trained", lambda folder, images: done.append("trained"))
    monkeypatch.setattr(demo.exporting, "export", lambda run, images, out, options: small_bundle.make(out))
    monkeypatch.setattr(demo.pages, "of", lambda bundle, runtime, examples: (None, f"<p>{runtime.name}</p>"))
    return done


@pytest.mark.skipif(certificates.OPENSSL is None, reason="openssl is not installed")
def test_it_leaves_a_server_that_only_this_machine_reaches_and_that_asks_for_a_token(quick, tmp_path):
    steps = []
    for _ in range(2):  # the second time with what the first has left
        ready = demo.prepare(tmp_path / "out", 0, tmp_path / "dist", lambda done, step: steps.append(done))
        assert ready.page == "<p>dist</p>"
        assert (ready.settings.host, ready.settings.insecure) == ("127.0.0.1", False)
        assert tokens.digest(ready.token) in Path(str(ready.settings.token_file)).read_text()
        assert ready.token not in Path(str(ready.settings.token_file)).read_text()
    assert steps == [*range(len(demo.STEPS) + 1)] * 2
    out = tmp_path / "out"
    assert all((out / name).stat().st_mode & 0o077 == 0 for name in ("key.pem", "tokens", "token"))
    assert (out / "token").read_text() == f"{ready.token}\n"
    assert {path.name for path in out.iterdir()} <= demo.OWN
    pictures = sorted((out / "examples").iterdir())
    assert ready.settings.image == str(pictures[3])
    assert tokens.held_by_client(out / "tokens") == out / "token"
    assert [path.stem for path in pictures] == [str(digit) for digit in range(demo.EXAMPLES)]
    assert Image.open(pictures[0]).size == (32, 32)


def test_what_is_missing_is_said_before_anything_is_made(quick, tmp_path, monkeypatch):
    monkeypatch.setattr(demo.shutil, "which", lambda name: None if name == "npm" else name)
    with pytest.raises(UserError, match="the command npm is missing: it fetches onnxruntime-web@"):
        demo.prepare(tmp_path / "out", 0, None)
    monkeypatch.setattr(demo.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="the command openssl is missing"):
        demo.prepare(tmp_path / "out", 0, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr(demo.shutil, "which", lambda name: name)
        for port, said in ((taken.getsockname()[1], "cannot listen on"), (99999, "--port 99999; expected 0 to 65535")):
            with pytest.raises(UserError, match=said):
                demo.prepare(tmp_path / "out", port, tmp_path)
    assert not (tmp_path / "out").exists()
    assert quick == []


def test_another_folder_is_left_alone(quick, tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    with pytest.raises(UserError, match="holds something else; choose an empty or new folder for --out"):
        demo.prepare(tmp_path, 0, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_command_that_fails_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"npm cannot fetch the runtime: .*nothing there"):
        demo._run(["sh", "-c", "echo first; echo nothing there >&2; exit 3"], "npm cannot fetch the runtime")
    with pytest.raises(UserError, match=r"trouble: exit code 3"):
        demo._run(["sh", "-c", "exit 3"], "trouble")
