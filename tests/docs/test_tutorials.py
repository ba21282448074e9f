"""The tutorials run from top to bottom, with smaller networks and fewer steps than `make tutorials` gives them.

What their text says of their output is checked there, where they are executed in full (`benchmarks/tutorials.py`).
"""

from __future__ import annotations

import contextlib
import importlib
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupytext
import pytest
import torch
from torch import nn

from splitveil import runs
from splitveil.cli import main
from splitveil.zoo import Parts

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
SHORTER = {
    "(1000, 350, 200, 247), 6": "(300, 140, 60, 1297), 3",
    "(900, 350, 547), 6": "(300, 140, 1357), 3",
    "[:100]": "[:40]",
    "conv_normN1C32": "conv_normN0C16",
    "steps=40": "steps=2",
    "max_drop=2.0": "max_drop=60.0",
    "--train-size 600": "--train-size 200",
    "--epochs 6": "--epochs 2",
    "--attacker-size 300": "--attacker-size 60",
}
"""What is replaced in the sources."""


def tiny(*_: Any, classes: int, **__: Any) -> Parts:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.Sigmoid())
    return Parts(encoder, nn.Sequential(nn.Flatten(), nn.Linear(256, classes)))


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_tutorial_runs_from_top_to_bottom(source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs.zoo, "build", tiny)
    for name in ("COLUMNS", "TTY_COMPATIBLE"):  # which tutorials set
        monkeypatch.setenv(name, "100")
    names: dict[str, Any] = {}
    codes = []

    def run(line):
        codes.append(shell(line))
        names["_exit_code"] = codes[-1]

    names["shell"] = run
    with torch.random.fork_rng(), stopped(names):
        for cell in cells(source, "code"):
            text = f"shell({cell[1:]!r})" if cell.startswith("!") else cell
            exec(compile(text, f"<{source.stem}>", "exec"), names)
    assert capsys.readouterr().out
    # An audit whose policy is not met, and one of a run that is not there, are part of the page.
    assert [code for code in codes if code] == ([1, 2] if source.stem == "read_a_card" else [])


def test_what_is_shortened_is_there():
    text = "\n".join(source.read_text("utf-8") for source in SOURCES)
    assert all(part in text for part in SHORTER)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_the_links_of_a_tutorial_lead_somewhere(source):
    text = "\n".join(cells(source, "markdown"))
    assert text.startswith("# ")
    for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", text):
        page = source.parent / target
        assert page.is_file(), target
        heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
        slugs = {"#" + re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
        assert not anchor or anchor in slugs, target + anchor


def test_a_page_has_text_code_outputs_and_pictures(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("tutorials")
    notebook = jupytext.reads("# %% [markdown]\n# # Title\n\n# %%\n1 + 1\n\n# %%\n# !splitveil list\n", "py:percent")
    plain = {"output_type": "execute_result", "data": {"text/plain": "\x1b[1m2\x1b[0m"}}
    bar = {"output_type": "display_data", "data": {"text/html": "<progress>", "text/plain": "<IPython.core.HTML>"}}
    picture = {"output_type": "display_data", "data": {"image/png": "aGVsbG8=", "text/plain": "<Figure>"}}
    notebook.cells[1].outputs = [bar, {"output_type": "stream", "text": "printed\n"}, plain, picture]
    notebook.cells[2].outputs = []
    found = "\n".join(page.markdown(notebook, tmp_path))
    assert "# Title\n\n```python\n1 + 1\n```\n\n" in found
    assert "```text\nprinted\n2\n```" in found
    assert f"({tmp_path.name}/1.png)" in found
    assert found.index("printed") < found.index("1.png")
    assert (tmp_path / "1.png").read_bytes() == b"hello"
    assert "```bash\nsplitveil list\n```" in found
    assert "progress" not in found


def test_every_tutorial_is_built_and_checked(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    page = importlib.import_module("tutorials")
    assert sorted(page.NAMES) == sorted(page.CLAIMS) == [source.stem for source in SOURCES]


def cells(source: Path, kind: str) -> list[str]:
    found = [cell.source for cell in jupytext.read(source, fmt="py:percent").cells if cell.cell_type == kind]
    for text, shorter in SHORTER.items() if kind == "code" else ():
        found = [cell.replace(text, shorter) for cell in found]
    return found


def shell(line: str) -> int:
    """Run a command as a notebook's `!` does; those of this package in this process, which saves their start."""
    words, _, file = line.replace("\\\n", " ").partition(" > ")
    if not words.startswith("splitveil "):
        return subprocess.run(words, shell=True, check=True).returncode
    with Path(file).open("w") if file else contextlib.nullcontext() as out:
        try:
            with contextlib.redirect_stdout(out) if out else contextlib.nullcontext():
                main(shlex.split(words)[1:])
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


@contextlib.contextmanager
def stopped(names: dict[str, Any]) -> Iterator[None]:
    """End the server that a tutorial has started, where it has not come to that itself."""
    try:
        yield
    finally:
        if server := names.get("server"):
            server.kill()
            server.wait()
            server.stdout.close()
