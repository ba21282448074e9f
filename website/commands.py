"""Pages of commands, made from the commands themselves: all that `splitveil COMMAND --help` says, as Markdown."""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console

from splitveil.cli import app
from splitveil_edge import command as edge

from . import links
from .measured import heading
from .staging import ROOT

WIDTH = 80
"""Letters of a line of help: what fits beside the navigation of a desktop."""


def names() -> list[str]:
    """Return the names of all commands of `splitveil`."""
    return sorted(name for name in app if not name.startswith("-"))


def help_of(*words: str) -> str:
    """Return what a command prints for --help.

    Args:
        *words: the command, such as ``train``; none for the program itself.
    """
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, legacy_windows=False)
    app.help_print(list(words), console=console)
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"[ \t]+$", "", console.file.getvalue(), flags=re.MULTILINE).strip("\n")


def described(name: str) -> str:
    """Return the usage of a command and its parameters, as lists that fit every width.

    Args:
        name: such as ``train``.
    """
    _, usage, text = re.split(r"```console\n(.*?)\n```", app[name].generate_docs(recursive=False), flags=re.DOTALL)
    usage = re.sub(r"-m \S+ ", "", usage)  # of the module that is run, which is no part of the command
    for group in ("Parameters", "Arguments", "Commands"):
        text = text.replace(f"**{group}**:", f"## {group}")
    code = re.compile(r"(`[^`]*`)")
    text = "".join(part if code.fullmatch(part) else part.replace("<", "&lt;") for part in code.split(text))
    return f"```text\nsplitveil {usage}\n```\n{text.rstrip()}"


def edge_commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of `splitveil-edge` by command."""
    (choices,) = (one.choices for one in edge._parser()._actions if isinstance(one, argparse._SubParsersAction))
    return dict(choices)


def uses(command: str) -> list[Path]:
    """Return the pages of docs/ whose examples call a command.

    Args:
        command: such as ``splitveil train``.
    """
    call = re.compile(rf"^(?:\$ )?(?:\S+=\S+ )*{re.escape(command)}\b", re.MULTILINE)
    pages = sorted(path for path in (ROOT / "docs").rglob("*.md") if path.stem != "index")
    return [path for path in pages if call.search(_code(path.read_text(encoding="utf-8")))]


def _code(text: str) -> str:
    return "\n".join(line.lstrip() for _, line, is_prose in links.prose(text) if not is_prose)


def write(out: Path) -> list[tuple[str, str]]:
    """Write a page for each command.

    Args:
        out: folder of the site's sources.

    Returns:
        Title and path of each page, for the navigation.
    """
    folder = out / "reference/commands"
    folder.mkdir(parents=True, exist_ok=True)
    texts = {f"splitveil {name}": described(name) for name in names()}
    for name, parser in edge_commands().items():
        texts[f"splitveil-edge {name}"] = f"```text\n{parser.format_help().strip()}\n```"
    pages = []
    for command, text in texts.items():
        name = command.replace(" ", "-").removeprefix("splitveil-") if " " in command else command
        (folder / f"{name}.md").write_text(page(command, text), encoding="utf-8")
        pages.append((command, f"reference/commands/{name}.md"))
    overview = "# Commands\n\nWhat the programs say of themselves: each page has all that `--help` prints.\n\n"
    overview += f"```text\n{help_of()}\n```\n\n"
    overview += "".join(f"- [`{title}`]({path.removeprefix('reference/')})\n" for title, path in pages)
    (out / "reference/commands.md").write_text(overview, encoding="utf-8")
    return [("Overview", "reference/commands.md"), *pages]


def page(command: str, text: str) -> str:
    """Return the page of a command.

    Args:
        command: with its program.
        text: its help, as Markdown.
    """
    lines = [f"# {command}", "", text, ""]
    found = uses(command)
    if found:
        lines += ["## Pages that use it", ""]
        lines += [f"- [{heading(path)}](../../{path.relative_to(ROOT / 'docs').as_posix()})" for path in found]
    return "\n".join(lines) + "\n"
