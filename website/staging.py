"""The written pages as the site reads them: copied, with links that lead to where the site keeps their targets.

Sources keep links that work on a code host, such as ../CONTRIBUTING.md; the site has nothing outside its own folder.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from os.path import relpath
from pathlib import Path
from urllib.parse import quote, unquote

from . import links, notebooks

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "README.md": "index.md",
    "SECURITY.md": "project/security.md",
    "edge/README.md": "project/edge.md",
    "findings/README.md": "project/findings.md",
    "records/README.md": "results/how-claims-are-recorded.md",
}
"""Pages outside docs/, and where the site has them."""
FOLDERS = {"benchmarks": "results/measurements.md", "records": "results/claims.md", "edge": "project/edge.md"}
"""Folders that pages link to, and the pages that stand for them."""
RECORD = re.compile(r"benchmarks/(?:(?:cpu|gpu)_records/)?([\w-]+)\.json")
TEXT = (".py", ".sh", ".toml", ".yaml", ".yml", ".cff", ".cfg", "")
"""Endings of files that become pages of code; all others are copied as they are."""
INTERVAL = re.compile(r"(`[^`]*`)|\[([−+-]?[\d.,]+), ([−+-]?[\d.,]+)\]")
"""Two numbers in brackets, or code, in which they are something else."""
LISTED = re.compile(r"\s*(?:[-*+]|\d+[.)])\s")


class SiteError(Exception):
    """The site cannot be built: a page has a mistake."""


def place(source: Path) -> str:
    """Return the site's path of a file or folder of the repository.

    Args:
        source: relative to the root.

    >>> place(Path("docs/cem.md")), place(Path("CONTRIBUTING.md")), place(Path("benchmarks/speed.json"))
    ('cem.md', 'project/contributing.md', 'results/speed.md')
    >>> place(Path("benchmarks/speed.py")), place(Path("benchmarks/tradeoff.png"))
    ('files/benchmarks/speed.py.md', 'files/benchmarks/tradeoff.png')
    """
    name = source.as_posix()
    if found := PAGES.get(name) or FOLDERS.get(name):
        return found
    if record := RECORD.fullmatch(name):
        return f"results/{record[1]}.md"
    if source.parts[0] == DOCS:
        inside = source.relative_to(DOCS)
        return inside.with_suffix(".md").as_posix() if notebooks.is_notebook(source) else inside.as_posix()
    return f"files/{name}.md" if source.suffix in TEXT else f"files/{name}"


def stage(out: Path) -> None:
    """Copy all written pages, and what they link to, into the folder that the site is built from.

    Args:
        out: an empty folder.

    Raises:
        SiteError: a link leads nowhere, or a page needs the network.
    """
    wrong: list[str] = []
    linked: set[Path] = set()
    sources = [Path(name) for name in PAGES if (ROOT / name).is_file() and name != "README.md"]
    sources += [path.relative_to(ROOT) for path in sorted((ROOT / DOCS).rglob("*")) if path.is_file()]
    executed = {source.with_suffix(".md") for source in sources if notebooks.is_notebook(source)}
    for source in (source for source in sources if source not in executed):
        target = out / place(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            wrong += links.dead(ROOT / source, ROOT)
            text = (ROOT / source).read_text(encoding="utf-8")
        elif notebooks.is_notebook(source):
            text = notebooks.as_page(ROOT / source, target)
        else:
            shutil.copyfile(ROOT / source, target)
            continue
        if re.search(r"^\s*(```|~~~)\s*mermaid", text, re.MULTILINE):
            wrong.append(f"{source}: a mermaid drawing is loaded from the network; commit an SVG")
        page = spaced(together(links.rewritten(text, _moved(source, linked))))
        target.write_text(page, encoding="utf-8")
    if wrong:
        raise SiteError("\n".join(wrong))
    for source in sorted(linked):
        _add(source, out / place(source))


def _moved(source: Path, linked: set[Path]) -> Callable[[str], str]:
    """Return what makes the site's target of a page's link; files outside docs/ are added to ``linked``."""
    here = Path(place(source)).parent

    def of(target: str) -> str:
        path, mark, anchor = target.partition("#")
        if links.ELSEWHERE.match(target) or not path:
            return target
        found = (ROOT / source.parent / unquote(path)).resolve()
        if not found.is_relative_to(ROOT) or not found.exists():
            return target  # `links.dead` says so
        inside = found.relative_to(ROOT)
        if inside.parts[0] != DOCS and inside.as_posix() not in (*PAGES, *FOLDERS):
            if found.is_dir():
                raise SiteError(f"{source}: {target} is a folder without a page; name one of its files")
            if not RECORD.fullmatch(inside.as_posix()):
                linked.add(inside)
        return quote(relpath(place(inside), here)) + mark + anchor

    return of


def _add(source: Path, target: Path) -> None:
    """Put a file that a page links to into the site: code as a page, which every browser shows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix != ".md":
        shutil.copyfile(ROOT / source, target)
        return
    text = (ROOT / source).read_text(encoding="utf-8").rstrip("\n")
    language = {".py": "python", ".sh": "bash", ".cff": "yaml"}.get(source.suffix, source.suffix[1:] or "text")
    fence = "`" * max(4, *(len(mark) + 1 for mark in re.findall("`+", text) or [""]))
    head = f"---\nsearch:\n  exclude: true\n---\n\n# {source}\n\n"
    target.write_text(f"{head}{fence}{language}\n{text}\n{fence}\n", encoding="utf-8")


def together(text: str) -> str:
    r"""Return a page whose tables break no line between the two ends of an interval.

    Args:
        text: a page.

    >>> together("| 85.8 [85.1, 86.4] | `[1, 2]` |").replace(chr(160), "~")
    '| 85.8 [85.1,~86.4] | `[1, 2]` |\n'
    """
    lines = []
    for _, line, is_prose in links.prose(text):
        if is_prose and line.startswith("|"):
            line = INTERVAL.sub(lambda found: found[1] or f"[{found[2]},\N{NO-BREAK SPACE}{found[3]}]", line)
        lines.append(line)
    return "\n".join(lines) + "\n"


def spaced(text: str) -> str:
    r"""Return a page with an empty line before each list and table, which code hosts do not ask for.

    Args:
        text: a page.

    >>> print(spaced("Two:\n- a\n- b\n"), end="")
    Two:
    <BLANKLINE>
    - a
    - b
    """
    lines: list[str] = []
    before = ""
    for _, line, is_prose in links.prose(text):
        begins_list = bool(LISTED.match(line)) and not LISTED.match(before)
        begins_table = line.startswith("|") and not before.startswith("|")
        if is_prose and before.strip() and not before.startswith((" ", "#")) and (begins_list or begins_table):
            lines.append("")
        lines.append(line)
        before = line if is_prose else ""
    return "\n".join(lines) + "\n"
