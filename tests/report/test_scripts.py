"""The scripts of the report's page."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from splitveil.report.bench import SCRIPTS


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_pages_scripts_are_javascript(name, tmp_path):
    path = Path(str(files("splitveil.report").joinpath("templates", name)))
    assert subprocess.run(["node", "--check", path], capture_output=True).returncode == 0


def test_the_scripts_never_make_html_of_text():
    for name in SCRIPTS:
        text = files("splitveil.report").joinpath("templates", name).read_text("utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text)
