"""Notebooks as pages: Markdown as it stands, code in fences, and the outputs that an executed notebook has."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CELL = re.compile(r"^# %%(.*)$", re.MULTILINE)


TUTORIALS = "tutorials"


def is_notebook(source: Path) -> bool:
    """Return whether a file of docs/ is a notebook, and not what the execution of one has left.

    Tutorials are Python with # %% marks (jupytext's percent format), others are of Jupyter.

    Args:
        source: its path.

    >>> is_notebook(Path("docs/tutorials/a.py")), is_notebook(Path("docs/tutorials/a.ipynb"))
    (True, False)
    """
    return source.suffix == (".py" if source.parent.name == TUTORIALS else ".ipynb")


def as_page(source: Path, target: Path) -> str:
    """Return a notebook as Markdown, and leave its pictures beside the page.

    A tutorial that `make tutorials` has executed is taken as that has written it.

    Args:
        source: the notebook.
        target: where the page will be.
    """
    executed = source.with_suffix(".md")
    if source.suffix == ".py" and executed.is_file():
        offer = f"[Download this page as an executed notebook]({source.stem}.ipynb)\n"
        text = executed.read_text(encoding="utf-8")
        return text + (f"\n{offer}" if source.with_suffix(".ipynb").is_file() else "")
    text = source.read_text(encoding="utf-8")
    cells = percent_cells(text) if source.suffix == ".py" else json.loads(text)["cells"]
    blocks = []
    for number, cell in enumerate(cells, 1):
        content = "".join(cell["source"]).strip("\n")
        if cell["cell_type"] == "markdown":
            blocks.append(content)
        elif cell["cell_type"] == "code" and content:
            blocks.append(fenced(content, "python"))
            blocks += _outputs(cell.get("outputs", ()), target, number)
    return "\n\n".join(blocks) + "\n"


def percent_cells(text: str) -> list[dict[str, Any]]:
    r"""Return the cells of a Python file in the percent format.

    Args:
        text: the file; what stands before the first mark is jupytext's head.

    >>> percent_cells("# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n")
    [{'cell_type': 'markdown', 'source': '# Title\n\nText.'}, {'cell_type': 'code', 'source': 'x = 1'}]
    """
    _, *parts = CELL.split(text)
    cells = []
    for mark, content in zip(parts[::2], parts[1::2], strict=True):
        if "[markdown]" in mark:
            lines = (re.sub("^# ?", "", line) for line in content.strip("\n").splitlines())
            cells.append({"cell_type": "markdown", "source": "\n".join(lines)})
        elif "[raw]" not in mark:
            cells.append({"cell_type": "code", "source": content.strip("\n")})
    return cells


def fenced(text: str, language: str) -> str:
    """Return text as a block of code.

    Args:
        text: any.
        language: that colors it.
    """
    fence = "`" * max(3, *(len(mark) + 1 for mark in re.findall("^`+", text, re.MULTILINE) or [""]))
    return f"{fence}{language}\n{text}\n{fence}"


def _outputs(outputs: Iterable[Mapping[str, Any]], target: Path, number: int) -> list[str]:
    """Return what a cell printed and drew; its pictures become files."""
    blocks = []
    for place, output in enumerate(outputs, 1):
        data = output.get("data", {})
        if "image/png" in data:
            picture = target.with_name(f"{target.stem}-{number}-{place}.png")
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(base64.b64decode("".join(data["image/png"])))
            blocks.append(f"![What the code above draws]({picture.name})")
        elif text := "".join(output.get("text", ())) or "".join(data.get("text/plain", ())):
            blocks.append(fenced(text.rstrip("\n"), "text"))
    return blocks
