"""Commands run in the process of the test: what they answer, and what they leave."""

from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path

from splitveil.cli import main

TINY = ["--data", "digits", "--train-size", "60", "--test-size", "40", "--arch", "resnet20_sgm", "--cut", "2"]
TRAIN = [*TINY, "--bottleneck", "2", "--batch-size", "32", "--epochs", "1", "--protocol", "train_time"]


def answer(*tokens: object) -> tuple[int, str]:
    """Return the exit code and the standard error of a command; a traceback is an error of the test."""
    error = io.StringIO()
    code = 0
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            main([str(token) for token in tokens])
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, error.getvalue()


def state_of(folder: Path) -> dict[Path, str]:
    """Return a digest of every file of a folder."""
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def finish(out: Path) -> Path:
    """Train a run of seconds and attack it."""
    assert answer("train", *TRAIN, "--out", out)[0] == 0
    assert answer("attack", out, "--attack", "linear")[0] == 0
    return out
