"""Checks of the built site: every link and anchor leads somewhere, and nothing is loaded from the network."""

from __future__ import annotations

import re
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote

HREF = re.compile(r"<(?:a|link|img|script|iframe|source)\b[^>]*?\s(?:href|src)=(?:\"([^\"]*)\"|([^\s>]+))")
LOADED = re.compile(
    r"<(?:link(?![^>]*rel=\"?(?:canonical|next|prev))|img|script|iframe|source)\b[^>]*?\s(?:href|src)=\"?(?:https?:)?//[^\s>]*"
)
ID = re.compile(r"\s(?:id|name)=(?:\"([^\"]+)\"|([^\s>\"]+))")
OUTSIDE = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)


@cache
def _ids(page: Path) -> frozenset[str]:
    return frozenset(unescape(one or other) for one, other in ID.findall(page.read_text(encoding="utf-8")))


def problems(site: Path) -> list[str]:
    """Return what is wrong with a built site.

    Args:
        site: its folder.
    """
    site = site.resolve()
    wrong = []
    for page in sorted(site.rglob("*.html")):
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(site).as_posix()
        wrong += [f"{name} loads from the network: {found[0]}" for found in LOADED.finditer(text)]
        if name != "404.html":  # its links begin at the site's root
            found = {unescape(one or other) for one, other in HREF.findall(text)}
            wrong += [f"{name}: {target} {reason}" for target in sorted(found) if (reason := _dead(page, target, site))]
    for style in sorted(site.rglob("*.css")):
        if re.search(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")):
            wrong.append(f"{style.relative_to(site)} loads from the network")
    return wrong


def _dead(page: Path, target: str, site: Path) -> str:
    """Return why a link leads nowhere; nothing where it leads somewhere."""
    if OUTSIDE.match(target) or target in ("", "#"):
        return ""
    path, _, anchor = target.partition("#")
    file = (page.parent / unquote(path.partition("?")[0])).resolve() if path else page
    if file.is_dir():
        file /= "index.html"
    if not file.is_relative_to(site) or not file.exists():
        return "does not exist"
    if anchor and not anchor.startswith("__") and file.suffix == ".html" and unquote(anchor) not in _ids(file):
        return "has no such anchor"
    return ""
