"""Every command that the README and the docs tell you to type is one that the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError

from splitveil.cli import app
from splitveil_edge import command as edge

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:bash|sh|console)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VAGUE = re.compile(r"\.\.\.|…|\||<|=$|\*|\[")
"""Parts of text that is no command but the pattern of several."""


def commands() -> list[object]:
    """(page, command), once each."""
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "\n".join(BLOCK.findall(text)).replace("\\\n", " ")
        lines = [line.strip() for line in blocks.splitlines()]
        starts = [line for line in lines if re.match(r"(\S+=\S+ )*splitveil(-edge)? ", line)]
        for line in starts:
            one = re.sub(r"\s+(#|&|>|\|\||&&).*$|\s+&$", "", line)
            found[page.name, re.sub(r"^(\S+=\S+ )+", "", one)] = None
    return [pytest.param(command, id=f"{page}: {command[:70]}") for page, command in found if not VAGUE.search(command)]


@pytest.mark.parametrize("command", commands())
def test_it_is_taken(command):
    program, *words = shlex.split(command)
    if program == "splitveil-edge":
        edge._parser().parse_args(words)
        return
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        pytest.fail(f"{command}: {error}")


def test_every_training_says_where_the_network_is_cut():
    """Without a cut the command ends with an error, which its arguments alone do not show."""
    lines = [str(command.values[0]) for command in commands()]  # type: ignore[attr-defined]
    trainings = [line for line in lines if line.startswith("splitveil train ") and "--config" not in line]
    assert len(trainings) > 5
    assert [line for line in trainings if "--cut" not in line and "@" not in line] == []
