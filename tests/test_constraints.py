"""The versions in constraints.txt, which `make test` and `make demo` install."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
PINS = re.findall(r"^([A-Za-z0-9_.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_every_pinned_version_takes_the_oldest_python_that_the_package_takes():
    """One asked for 3.11.5, so that nothing could be installed on a Debian whose Python is 3.11.2."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    asked = {}
    for name in PINS:
        try:
            asked[name] = str(metadata(name).json.get("requires_python", ""))
        except PackageNotFoundError:  # an extra that is not installed here
            continue
    if not asked:
        pytest.skip("no pinned package is installed")
    assert {name: text for name, text in asked.items() if not SpecifierSet(text).contains(oldest)} == {}
