"""Markdown pages: their headings as anchors, their links, and which links lead nowhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

FENCE = re.compile(r"^\s*(```+|~~~+)")
HEADING = re.compile(r"^#{1,6}\s+(.*?)\s*#*$")
LINK = re.compile(r"(\]\()([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)((?:\s+\"[^\"]*\")?\))")
"""The end of a link, with its target: its words may begin on the line before."""
CODE = re.compile(r"(`+)(.+?)\1")
ELSEWHERE = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)
"""The start of an address that is no path: https:, mailto:."""


def prose(text: str) -> Iterator[tuple[int, str, bool]]:
    """Yield the number of each line, the line, and whether it is prose: neither a fence nor within one.

    Args:
        text: a page.
    """
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if mark and not fence:
            fence = mark[1]
            yield number, line, False
        elif fence:
            if mark and mark[1].startswith(fence):
                fence = ""
            yield number, line, False
        else:
            yield number, line, True


def slug(heading: str) -> str:
    """Return the anchor of a heading, as code hosts and the site make it.

    Args:
        heading: its Markdown, without the leading #.

    >>> slug("`waterfill`: [where](x.md) to put *noise*"), slug("What the logged estimate is worth")
    ('waterfill-where-to-put-noise', 'what-the-logged-estimate-is-worth')
    """
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    text = re.sub(r"[*`]", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Return the anchors of a page: those of its headings, and those that it sets itself.

    Args:
        text: a page.
    """
    found: set[str] = set()
    for _, line, is_prose in prose(text):
        if is_prose and (heading := HEADING.match(line)):
            found.add(slug(heading[1]))
        found.update(re.findall(r'<a (?:id|name)="([^"]+)"', line) if is_prose else ())
    return found


def targets(text: str) -> Iterator[tuple[int, str]]:
    """Yield the number of the line and the target of each link and picture of a page.

    Args:
        text: a page.
    """
    for number, line, is_prose in prose(text):
        if is_prose:
            for found in LINK.finditer(CODE.sub(lambda code: "x" * len(code[0]), line)):
                yield number, found[2]


def rewritten(text: str, change: Callable[[str], str]) -> str:
    """Return a page with other targets of its links; code stays as it is.

    Args:
        text: a page.
        change: makes the new target of an old one.

    >>> print(rewritten("[a](b.md) `[a](b.md)`", str.upper), end="")
    [a](B.MD) `[a](b.md)`
    """

    def of(line: str) -> str:
        hidden = CODE.sub(lambda code: "\0" * len(code[0]), line)
        parts, end = [], 0
        for found in LINK.finditer(hidden):
            parts += [line[end : found.start(2)], change(line[found.start(2) : found.end(2)])]
            end = found.end(2)
        return "".join((*parts, line[end:]))

    return "\n".join(of(line) if is_prose else line for _, line, is_prose in prose(text)) + "\n"


@cache
def _anchors_of(page: Path) -> frozenset[str]:
    return frozenset(anchors(page.read_text(encoding="utf-8")))


def dead(page: Path, root: Path) -> list[str]:
    """Return what is wrong with the links of a page: files that are not there, anchors that no heading has.

    Args:
        page: a Markdown file.
        root: of the repository, which no link may leave.
    """
    wrong = []
    for number, target in targets(page.read_text(encoding="utf-8")):
        if ELSEWHERE.match(target):
            continue
        place, _, anchor = unquote(target).partition("#")
        file = (page.parent / place).resolve() if place else page
        where = f"{page.relative_to(root)}:{number}: {target}"
        if not file.is_relative_to(root) or not file.exists():
            wrong.append(f"{where}: there is no such file")
        elif anchor and file.suffix == ".md" and anchor not in _anchors_of(file):
            wrong.append(f"{where}: no heading of that page has this anchor")
    return wrong
