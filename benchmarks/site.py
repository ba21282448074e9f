"""The built documentation site in a browser: nothing from the network, nothing wider than a phone, search, axe.

    make docs
    python benchmarks/site.py --chromium chromium --axe axe.min.js

Opens site/ as files. Every page is opened at 390 x 844 and must not be wider than that; one of each kind is checked
with axe-core, on a desktop and a phone, light and dark; a search must find a page. Writes benchmarks/site.json, and
pictures into --pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from chromium import Browser, chromium
from looks import SERIOUS, SIZES, checked, opened

KINDS = (
    "index.html",
    "start.html",
    "python.html",
    "attacks.html",
    "results.html",
    "faq.html",
    "peers.html",
    "tutorials/protect_my_network.html",
    "concepts/threat-model.html",
    "guides/add-a-plugin.html",
    "reference/python/splitveil.html",
    "reference/python/defenses.html",
    "reference/commands/train.html",
    "reference/files/run-audit-audit-json.html",
    "results/claims.html",
    "results/serving.html",
    "project/changelog.html",
)
"""A page of each kind, which axe checks."""
WORD = "water"
"""What is searched for."""


def address(page: Path, site: Path) -> str:
    """Address of a page that is opened as a file."""
    return (site.absolute() / page).as_uri()


def searched(browser: Browser, site: Path) -> list[str]:
    """Titles that the search finds for `WORD`, on a page opened as a file."""
    browser.look(*SIZES["desktop"])
    opened(browser, address(Path("index.html"), site))
    roots = "[...document.querySelectorAll('div')].map(one => one.shadowRoot)"
    dialog = f"{roots}.find(root => root?.querySelector('dialog'))"
    browser.until(dialog)
    browser.run("document.querySelector('.md-search__button').click()")
    browser.until(f"({dialog}).activeElement?.matches('input')")
    browser.call("Input.insertText", text=WORD)
    browser.until(f"({dialog}).querySelector('[role=option]')")
    return browser.run(f"[...({dialog}).querySelectorAll('[role=option] h2')].map(one => one.innerText)")


def walked(browser: Browser, site: Path) -> dict[str, Any]:
    """What every page asks of the network and writes to the console, and which is wider than a phone."""
    pages = [page.relative_to(site) for page in sorted(site.rglob("*.html")) if page.name != "404.html"]
    wide: list[str] = []
    outside: set[str] = set()
    said: Counter[str] = Counter()
    browser.look(*SIZES["phone"])
    for page in pages:
        opened(browser, address(page, site))
        width = browser.run("document.documentElement.scrollWidth")
        wide += [f"{page}: {width}"] if width > SIZES["phone"][0] else []
        outside.update(one for one in browser.requests if not one.startswith("GET file:"))
        said.update(browser.console)
    return {
        "pages": len(pages),
        "wider_than_a_phone": wide,
        "requests_to_the_network": sorted(outside),
        "console": dict(said.most_common(5)),
    }


def looked_at(browser: Browser, site: Path, axe: str, pictures: Path | None) -> list[dict[str, Any]]:
    """Violations that axe-core finds on a page of each kind, in every look."""
    faults = []
    for page in (Path(kind) for kind in KINDS if (site / kind).is_file()):
        for size, (width, height) in SIZES.items():
            for color in ("light", "dark"):
                browser.look(width, height, color == "dark")
                opened(browser, address(page, site))
                if pictures:
                    pictures.mkdir(parents=True, exist_ok=True)
                    name = "-".join((*page.with_suffix("").parts, size, color))
                    (pictures / f"{name}.png").write_bytes(browser.picture(whole=False))
                faults += [{"page": str(page), "look": f"{size}, {color}"} | one for one in checked(browser, axe)]
    return faults


def main() -> int:
    """Check the site, write the record, and return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, default=Path("site"))
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js of npm's axe-core")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each kind of page in each look")
    args = parser.parse_args()
    axe = args.axe.read_text(encoding="utf-8")
    with chromium(args.chromium) as browser:
        record = walked(browser, args.site)
        faults = looked_at(browser, args.site, axe, args.pictures)
        found = searched(browser, args.site)
        version = browser.version
    serious = [fault for fault in faults if fault["impact"] in SERIOUS]
    others = Counter(fault["id"] for fault in faults if fault["impact"] not in SERIOUS)
    record |= {
        "axe": {
            "pages": sum((args.site / kind).is_file() for kind in KINDS),
            "looks": ["desktop and phone", "light and dark"],
            "serious_or_critical": len(serious),
            "others": dict(others),
        },
        "search": {"for": WORD, "found": len(found), "first": found[:3]},
        "machine": {"browser": version, "axe-core": axe[:40].split("v")[-1].split()[0], "cores": os.cpu_count()},
        "command": "python benchmarks/site.py --chromium chromium --axe axe.min.js",
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2), *serious, sep="\n")
    return int(bool(record["wider_than_a_phone"] or record["requests_to_the_network"] or serious or not found))


if __name__ == "__main__":
    sys.exit(main())
