"""Build the documentation site into site/: `python -m website.build`.

The pages of docs/ are staged in build/website with links that stay inside the site, the reference and the results are
generated beside them, and zensical makes HTML of all. A dead link, a public object without a docstring, a page in no
section, or anything that is loaded from the network ends the build with exit code 1.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from . import check, navigation, reference, staging
from .staging import ROOT, SiteError

WORK = ROOT / "build/website"
HERE = Path(__file__).parent


def stage(work: Path) -> Path:
    """Write all sources of the site.

    Args:
        work: a folder that is replaced.

    Returns:
        The configuration file.
    """
    from . import commands, formats, measured  # they import what they describe

    shutil.rmtree(work, ignore_errors=True)
    docs = work / "docs"
    docs.mkdir(parents=True)
    staging.stage(docs)
    shutil.copytree(HERE / "assets", docs / "assets")
    generated = {
        "Reference": {
            "Python": reference.write(docs),
            "Commands": commands.write(docs),
            "File formats": formats.write(docs),
        },
        "Results": {"Records": measured.write(docs)},
    }
    found = navigation.as_toml(navigation.entries(docs, generated))
    text = (HERE / "zensical.toml").read_text(encoding="utf-8")
    text = text.replace("nav = []  # set by the build", f"nav = {found}")
    paths = navigation.as_toml([str(path) for path in reference.SOURCES])
    config = work / "zensical.toml"
    config.write_text(text.replace("paths = []  # set by the build", f"paths = {paths}"), encoding="utf-8")
    return config


def render(config: Path) -> None:
    """Make HTML of the staged sources.

    Args:
        config: the configuration file.

    Raises:
        SiteError: the generator found a mistake.
    """
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean", "--config-file", str(config)]
    settings = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": path}, "text": True, "check": False}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **settings)
    if done.returncode or "griffe: " in done.stdout:  # a docstring that does not fit its function is a warning there
        text = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
        raise SiteError(text.partition("Traceback")[0])


def build(out: Path) -> None:
    """Build the site.

    Args:
        out: folder that is replaced.

    Raises:
        SiteError: a page has a mistake.
    """
    config = stage(WORK)
    render(config)
    site = config.parent / "site"
    if wrong := check.problems(site):
        raise SiteError("\n".join(wrong))
    shutil.rmtree(out, ignore_errors=True)
    shutil.move(site, out)


def main() -> int:
    """Build the site as the command line asks, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="folder of the site (default: site)")
    out = parser.parse_args().out
    try:
        build(out)
    except SiteError as error:
        print(f"the site was not built:\n{error}", file=sys.stderr)
        return 1
    print(f"open {out / 'index.html'} in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
