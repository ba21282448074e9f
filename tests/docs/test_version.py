"""One version, in one file; what repeats it must agree."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

import splitveil
import splitveil_edge

ROOT = Path(__file__).parents[2]


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert (ROOT / project["tool"]["hatch"]["version"]["path"]).samefile(splitveil.__file__)
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == splitveil.__version__
    assert splitveil_edge.__version__ == splitveil.__version__
    assert f"\n## [{splitveil.__version__}] - 20" in (ROOT / "CHANGELOG.md").read_text("utf-8")
