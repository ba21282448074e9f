"""The order of the pages: written ones by name or folder, generated ones after them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from .staging import SiteError

Entry = tuple[str, str]
"""A page's title, empty where its own heading is the title, and its path."""
SECTIONS: dict[str, tuple[str, ...]] = {
    "Start": ("index.md", "start.md", "python.md", "command-line.md", "quickstart.md"),
    "Tutorials": (
        "tutorials/protect_my_network.md",
        "tutorials/attack_a_model.md",
        "tutorials/read_a_card.md",
        "tutorials/from_a_run_to_a_service.md",
        "tutorials/*.md",
    ),
    "Guides": (
        "recipes.md",
        "harden.md",
        "cuts.md",
        "audit.md",
        "guides/*.md",
        "bench.md",
        "legacy.md",
        "service.md",
        "export.md",
        "serve.md",
        "edge.md",
        "page.md",
    ),
    "Concepts": (
        "concepts/threat-model.md",
        "cem.md",
        "concepts/noise-and-cem.md",
        "concepts/evaluations-go-wrong.md",
        "concepts/what-bounds-mean.md",
        "bounds.md",
        "concepts/*.md",
        "glossary.md",
    ),
    "Reference": ("defenses.md", "attacks.md"),
    "Results": ("results.md", "hardening-measured.md"),
    "Peers": ("peers.md",),
    "FAQ": ("faq.md",),
    "Project": ("project/*.md", "results/how-claims-are-recorded.md"),
}
"""Pages of each section. A pattern takes all pages of a folder, so that a new one appears by itself."""
UNLISTED = ("files/**/*.md",)
"""Pages that only links lead to."""


def entries(folder: Path, generated: Mapping[str, Mapping[str, Sequence[Entry]]]) -> list[object]:
    """Return the navigation as the site's generator reads it.

    Args:
        folder: sources of the site.
        generated: section -> group -> pages that were generated.

    Raises:
        SiteError: a page is in no section.
    """
    navigation: list[object] = []
    seen: set[str] = set()
    for section, patterns in SECTIONS.items():
        paths = [path.relative_to(folder).as_posix() for pattern in patterns for path in sorted(folder.glob(pattern))]
        paths = [path for path in dict.fromkeys(paths) if path not in seen]
        groups = generated.get(section, {})
        seen.update(paths, (path for pages in groups.values() for _, path in pages))
        inside: list[object] = [*paths]
        inside += [{group: [{title: path} for title, path in pages]} for group, pages in groups.items()]
        if inside:
            navigation.append({section: paths[0] if inside == paths[:1] and section in ("Peers", "FAQ") else inside})
    unlisted = {path for pattern in UNLISTED for path in folder.glob(pattern)}
    lost = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.md")) if path not in unlisted]
    if lost := [path for path in lost if path not in seen]:
        raise SiteError(f"in no section of website/navigation.py: {', '.join(lost)}")
    return navigation


def as_toml(value: object) -> str:
    """Return lists, mappings with one key and texts as TOML.

    Args:
        value: of the navigation.

    >>> as_toml([{"Start": ["index.md", {"One": "a.md"}]}])
    '[{ "Start" = ["index.md", { "One" = "a.md" }] }]'
    """
    match value:
        case str():
            return json.dumps(value, ensure_ascii=False)
        case Mapping():
            ((key, inside),) = value.items()
            return f"{{ {json.dumps(key, ensure_ascii=False)} = {as_toml(inside)} }}"
        case Sequence():
            return f"[{', '.join(map(as_toml, value))}]"
    raise TypeError(f"no TOML for {type(value).__name__}")
