"""Tokens: hashed, read again on change, and nobody is let in by a file that is missing or damaged."""

from __future__ import annotations

import os

import pytest

from commands import answer
from splitveil.errors import UserError
from splitveil.serving import tokens
from splitveil.serving.refusals import Refusal
from splitveil.serving.tokens import Tokens, digest, make


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def let_in(door: Tokens, token: str) -> str:
    try:
        return door.name_of(f"Bearer {token}")
    except Refusal:
        return ""


def test_the_file_of_a_client_is_found_beside_that_of_the_server(tmp_path):
    file = tmp_path / "tokens"
    assert tokens.held_by_client(file) is None
    token, _ = make("ann", file)
    assert tokens.held_by_client(file) is None
    os.mkfifo(tmp_path / "token")  # nobody writes into it: reading it would wait for ever
    (tmp_path / "a.token").write_text("of another server\n")
    (tmp_path / "b.token").write_text(f"{token}\n")
    (tmp_path / "c.txt").write_text(f"{token}\n")
    assert tokens.held_by_client(file) == tmp_path / "b.token"
    file.write_text("damaged\n")
    assert tokens.held_by_client(file) is None


def test_tokens_are_read_again_after_a_change_at_most_once_a_second(tmp_path, clock):
    file = tmp_path / "tokens"
    old, _ = make("ann", file)
    door = Tokens(file, clock)
    assert let_in(door, old) == "ann"
    new, _ = make("bob", file)
    assert let_in(door, new) == ""
    clock.now += 1
    assert (let_in(door, old), let_in(door, new)) == ("ann", "bob")
    file.write_text(f"# ann has left\n\nbob:{digest(new)}")
    clock.now += 1
    assert (let_in(door, old), let_in(door, new)) == ("", "bob")


def test_a_file_that_did_not_change_is_not_read_again(tmp_path, clock, monkeypatch):
    file = tmp_path / "tokens"
    token, _ = make("ann", file)
    os.utime(file, (1, 1))
    door, reads = Tokens(file, clock), []
    parsed = tokens.parsed
    monkeypatch.setattr(tokens, "parsed", lambda text: reads.append(1) or parsed(text))
    for _ in range(5):
        assert let_in(door, token) == "ann"
        clock.now += 2
    assert len(reads) == 1


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path, clock):
    """As two changes within one tick of the file system's clock: a token that was taken away must not stay."""
    file = tmp_path / "tokens"
    old, _ = make("ann", file)
    door = Tokens(file, clock)
    assert let_in(door, old) == "ann"
    about = file.stat()
    file.write_text(f"ann:{digest('new')}\n")
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    clock.now += 1
    assert (let_in(door, old), let_in(door, "new")) == ("", "ann")


def test_a_pipe_in_place_of_the_file_does_not_keep_the_server_waiting(tmp_path, clock):
    os.mkfifo(tmp_path / "tokens")
    door = Tokens(tmp_path / "tokens", clock)
    assert let_in(door, "any") == ""
    assert door.error == "it is no regular file"


@pytest.mark.parametrize(
    ("content", "said"), [("key\n", "line 1 is not name:sha256hex"), (None, "it is no regular file")]
)
def test_a_token_is_not_written_into_something_else(tmp_path, content, said):
    file = tmp_path / "key.pem"
    if content is None:
        os.mkfifo(file)
    else:
        file.write_text(content)
    with pytest.raises(UserError, match=f"no file of tokens: {said}; choose another --file"):
        make("ann", file)
    assert content is None or file.read_text() == content


@pytest.mark.parametrize("how", ["removed", "empty", "comment", "no line", "half a line", "a folder", "huge", "binary"])
def test_a_file_without_lines_lets_nobody_in(tmp_path, clock, how):
    file = tmp_path / "tokens"
    token, line = make("ann", file)
    door = Tokens(file, clock)
    assert let_in(door, token) == "ann"
    file.unlink()
    texts = {
        "empty": b"",
        "comment": b"# nobody\n",
        "no line": f"{line}\nann\n".encode(),
        "half a line": line[:-1].encode(),
        "huge": line.encode() + b"\n" * tokens.MOST_FILE,
        "binary": b"\xff\x00" + line.encode(),
    }
    if how == "a folder":
        file.mkdir()
    elif how in texts:
        file.write_bytes(texts[how])
    clock.now += 1
    assert let_in(door, token) == ""
    assert door.error
    if how != "a folder":
        file.write_text(line)
        clock.now += 1
        assert let_in(door, token) == "ann"
        assert door.error is None


def test_a_file_keeps_the_lines_that_it_has_and_its_owner_only_may_read_it(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("# mine")
    token, line = make("ann", file)
    assert file.read_text() == f"# mine\n{line}\n"
    made = tmp_path / "made"
    make("ann", made)
    assert made.stat().st_mode & 0o777 == 0o600
    assert token not in file.read_text()
    assert line == f"ann:{digest(token)}"


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a" * 65, "ä", "a\n"])
def test_names_of_other_letters_are_refused(name):
    with pytest.raises(UserError, match="expected 1 to 64"):
        make(name)


def test_the_command_prints_a_token_once(tmp_path, capsys):
    file = tmp_path / "tokens"
    assert answer("token", "ann", "--file", file) == (0, "")
    code, error = answer("token", "bob")
    assert code == 0
    assert "bob:" in error
    code, error = answer("token", "bob", "--file", tmp_path / "no" / "tokens")
    assert code == 2
    assert "cannot write" in error
    assert file.read_text().startswith("ann:")


def test_tokens_differ():
    assert len({make("ann")[0] for _ in range(50)}) == 50
    assert len(make("ann")[0]) >= 43


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_lets_nobody_in(tmp_path):
    file = tmp_path / "tokens"
    token, _ = make("ann", file)
    file.chmod(0)
    assert let_in(Tokens(file), token) == ""
