"""Names of modules and functions that the pages give exist."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = sorted(
    {name for page in PAGES for name in re.findall(r"\bsplitveil(?:\.[A-Za-z_]\w*)+", page.read_text("utf-8"))}
)


@pytest.mark.parametrize(
    "name", [name for name in NAMES if not name.endswith((".data", ".zoo", ".attacks", ".defenses"))]
)
def test_a_name_on_a_page_exists(name):
    found, place = importlib.import_module("splitveil"), "splitveil"
    for part in name.split(".")[1:]:
        place = f"{place}.{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(place)
    assert found
