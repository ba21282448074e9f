"""An extension of griffe: docstrings as our code writes them, in the words that the generator knows.

Google's section is "Examples", ours says "Example" where there is one; an example below all sections, which doctest
runs, would be a quotation in Markdown; and one line may describe several parameters.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

from . import reference

SINGLE = re.compile(r"^Example:$", re.MULTILINE)
SEVERAL = re.compile(r"^(    +)(\w+(?:, \w+)+): ", re.MULTILINE)
PROMPT = ">>>"


def with_code(text: str) -> str:
    r"""Return a docstring with fences around examples that stand in no section.

    Args:
        text: the docstring, without its indentation.

    >>> print(with_code("Add.\n\n>>> 1 + 1\n2\n\nMore.").replace(">>>", "> >"))
    Add.
    <BLANKLINE>
    ```pycon
    > > 1 + 1
    2
    ```
    <BLANKLINE>
    More.
    """
    lines: list[str] = []
    inside = False
    for line in SEVERAL.sub(_one_by_one, SINGLE.sub("Examples:", text)).splitlines():
        if line.startswith(PROMPT) and not inside:
            lines.append("```pycon")
            inside = True
        if inside and not line.strip():
            lines.append("```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, "```"] if inside else lines)


def _one_by_one(found: re.Match[str]) -> str:
    """Return a line about several parameters as one line for each: the first has the text, which follows."""
    *before, last = found[2].split(", ")
    return "".join(f"{found[1]}{name}: see `{last}`.\n" for name in before) + f"{found[1]}{last}: "


class Examples(griffe.Extension):
    """Mark the examples of every docstring, and complain where the reference shows an object without one."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        """Name the objects of a package that lack a docstring; the build ends where griffe warns.

        Args:
            pkg: the package, read to its end.
            **kwargs: what else griffe gives.
        """
        for name in reference.undocumented(pkg):
            griffe.logger.warning(f"{name} is in the reference, and has no docstring")

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of an object that was read.

        Args:
            obj: the object.
            **kwargs: what else griffe gives.
        """
        if obj.docstring:
            obj.docstring.value = with_code(obj.docstring.value)
