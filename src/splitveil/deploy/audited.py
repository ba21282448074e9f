"""The audit of what a bundle sends, if it was made: its summary for wire.json, and the privacy card."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from .. import config
from ..coded import FOLDER
from ..runs import Run
from ..storage import reading
from ..storage.files import json_digest

RECORD, CARD = "audit/audit.json", "audit/audit.html"
PLACES = (("model", "run"), ("reference", "run"), ("policy", "file"))
"""Where a record names a place on this machine."""
MODELS = ("model", "reference")
"""Where it names images, which may be `folder:PLACE`."""
AGAIN = "audit the run again, or remove the file"


def audit_of(run: Run, codec: str) -> tuple[dict[str, Any] | None, dict[str, bytes | str]]:
    """Return the summary of the audit of a coded wire, and the card's files by their path in the bundle.

    The audit is that of ``RUN/coded/CODEC``, which `splitveil audit RUN --codec CODEC` makes, or of the run itself
    where its wire is coded already. The paths of this machine are taken out.

    Args:
        run: the exported run.
        codec: of the bundle.

    Returns:
        None and nothing where this wire was not audited, or other weights were.

    Raises:
        UserError: the record is damaged.
    """
    folder = run.path if "coding" in run.summary else run.path / FOLDER / codec
    if not (folder / RECORD).is_file():
        return None, {}
    record = reading.read_json(folder / RECORD, reading.ANY, AGAIN)
    if record.get("model", {}).get("weights") != Run.open(folder).digest() or not _of(folder, run):
        return None, {}
    names = {record[key]: _again(run, codec) for key in ("command",) if record.get(key)}
    names |= {one: Path(one).name for one in _paths(record)}
    files: dict[str, bytes | str] = {"card.json": _without(json.dumps(record, indent=2, sort_keys=True) + "\n", names)}
    if (page := _page_of(record, folder / CARD)) is not None:
        files["card.html"] = _without(page, names)
    return _summary(record), files


def _page_of(record: dict[str, Any], path: Path) -> str | None:
    """Return the page beside a record; None where it is missing, or of another audit than the record."""
    page = path.read_text(encoding="utf-8") if path.is_file() else ""
    return page if f'<meta name="record" content="{json_digest(record)}">' in page else None


def _of(folder: Path, run: Run) -> bool:
    """Return whether a coded run is of these weights."""
    coding = Run.open(folder).summary.get("coding", {})
    return folder == run.path or coding.get("weights") == run.digest()


def _summary(record: dict[str, Any]) -> dict[str, Any]:
    best, attacker, verdict = (record.get(key, {}) for key in ("best_attacker", "attacker", "verdict"))
    return {
        "verdict": verdict.get("level"),
        "sentence": verdict.get("sentence"),
        "suite": attacker.get("suite"),
        "attacker_images": attacker.get("images"),
        "attacked": attacker.get("attacked"),
        "best_attacker": {"name": best.get("name"), "mse": best.get("mse")},
        "date": record.get("date"),
    }


def _paths(record: dict[str, Any]) -> list[str]:
    """Return the folders and files that a record names, the longest first, so that none is a part of a later one."""
    found = {(record.get(key) or {}).get(name) for key, name in PLACES}
    found |= {config.divided(str(each["data"]))[1] for key in MODELS if "data" in (each := record.get(key) or {})}
    return sorted((one for one in found if one and Path(one).name), key=len, reverse=True)  # "." says nothing


def _again(run: Run, codec: str) -> str:
    name = run.path.resolve().name
    return f"splitveil audit {name}" if "coding" in run.summary else f"splitveil audit {name} --codec {codec}"


def _without(text: str, names: dict[str, str]) -> str:
    for old, new in names.items():
        for written in (json.dumps(old)[1:-1], html.escape(old), old):
            text = text.replace(written, new)
    return text
