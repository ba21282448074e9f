"""A privacy card in a browser: on a desktop and a phone, light and dark, printed, checked with axe.

    splitveil audit RUN
    python benchmarks/card.py RUN/audit/audit.html --chromium chromium --axe axe.min.js [--pictures FOLDER]

Opens the card as a file. It must ask the network for nothing, write nothing to the console, be no wider than the window
and print on at most two sheets (A4), and axe-core must find no serious fault. Writes benchmarks/card.json; with
--pictures also a picture of each look and the printed PDF.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from chromium import Browser, chromium
from looks import SERIOUS, SIZES, checked, opened

SHEETS = 2
PAPER = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True, "printBackground": True}
"""A4, in inches."""


def sheets(pdf: bytes) -> int:
    """Number of pages of a PDF."""
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def looked_at(browser: Browser, page: str, axe: str, pictures: Path | None) -> list[dict[str, Any]]:
    """What is seen in each look: width beside that of the window, requests, console, faults that axe-core finds."""
    found = []
    for size, (width, height) in SIZES.items():
        for color in ("light", "dark"):
            browser.look(width, height, color == "dark")
            opened(browser, page)
            row = {
                "look": f"{size}, {color}",
                "window": width,
                "width": browser.run("document.documentElement.scrollWidth"),
                "requests": [one for one in browser.requests if one != f"GET {page}"],
                "console": list(browser.console),
            }
            if pictures:
                (pictures / f"card-{size}-{color}.png").write_bytes(browser.picture())
            found.append(row | {"axe": checked(browser, axe)})
    return found


def faults(record: dict[str, Any]) -> list[str]:
    """What is wrong with a card, in words."""
    found = [] if record["sheets"] <= SHEETS else [f"it prints on {record['sheets']} sheets"]
    for row in record["looks"]:
        wrong = [f"{one['id']} ({one['impact']})" for one in row["axe"] if one["impact"] in SERIOUS]
        wrong += [f"it is {row['width']} wide"] if row["width"] > row["window"] else []
        found += [f"{row['look']}: {one}" for one in (*wrong, *row["requests"], *row["console"])]
    return found


def main() -> int:
    """Look at the card, write the record, and return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("card", type=Path)
    parser.add_argument("--chromium", default="chromium")
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js of npm's axe-core")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each look and for the PDF")
    args = parser.parse_args()
    axe = args.axe.read_text(encoding="utf-8")
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
    with chromium(args.chromium) as browser:
        rows = looked_at(browser, args.card.absolute().as_uri(), axe, args.pictures)
        pdf = base64.b64decode(browser.call("Page.printToPDF", **PAPER)["data"])
        version = browser.version
    if args.pictures:
        (args.pictures / "card.pdf").write_bytes(pdf)
    about = json.loads(args.card.with_suffix(".json").read_text(encoding="utf-8"))
    record = {
        "command": f"python benchmarks/card.py {args.card} --chromium chromium --axe axe.min.js",
        "card": {"made by": about["command"], "bounds": len(about["bounds"]), "attacks": len(about["attacks"])},
        "bytes": args.card.stat().st_size,
        "sheets": sheets(pdf),
        "looks": rows,
        "machine": {"browser": version, "axe-core": axe[:40].split("v")[-1].split()[0], "cores": os.cpu_count()},
    }
    wrong = faults(record)
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=2), *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
