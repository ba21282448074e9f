"""The audit of what a bundle sends, if it was made or is given: its summary for wire.json, and the privacy card."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import config
from ..coded import FOLDER
from ..defenses.codec import codec_of
from ..errors import UserError
from ..model import SplitModel, digest_of
from ..runs import Run
from ..storage import reading
from ..storage.files import expanded, json_digest

if TYPE_CHECKING:
    from ..audit.own import PrivacyCard

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
    return _summary(record), _files(record, _page_of(record, folder / CARD), names)


def given(card: PrivacyCard | str | Path) -> tuple[dict[str, Any], str]:
    """Return the record and the page of a card that was made in Python.

    Args:
        card: what `splitveil.privacy_card` returns, or the folder that its ``save`` has left.

    Raises:
        UserError: it is neither, or the folder lacks one of the two files or holds those of two cards.
    """
    if isinstance(card, str | Path):
        if not str(card).strip() or expanded(card).is_file():
            what = f"the file {card}" if str(card).strip() else "an empty text"
            raise UserError(f"card is {what}; give the folder of card.save(...)")
        folder, again = expanded(card), "give the folder of card.save(...), or save the card again"
        record = reading.read_json(folder / Path(RECORD).name, reading.ANY, again)
        page = _page_of(record, folder / Path(CARD).name)
        if page is None:
            raise UserError(f"{folder / Path(CARD).name} is missing, or of another card than its record; {again}")
        return record, page
    try:
        return card.record(), card.html()
    except AttributeError:
        raise UserError(
            f"card is a {type(card).__name__}; expected what splitveil.privacy_card returns, or the folder of its save"
        ) from None


def checked(record: dict[str, Any], model: SplitModel, coded: SplitModel) -> dict[str, Any]:
    """Return the summary of a card for wire.json, if the card is about the wire that a bundle sends.

    Args:
        record: of the card.
        model: that is exported.
        coded: the same behind the codec of the bundle.

    Raises:
        UserError: the card is about another codec, another model, or another grid, or says of none what it is about.
    """
    about, codec = record.get("model") if isinstance(record, dict) else None, codec_of(coded.defense)
    if not isinstance(about, dict):
        raise UserError("the card does not say which model it is about; give what splitveil.privacy_card returns")
    sent, audited = "none" if codec is None else codec.name, about.get("codec") or "none"
    if (audited, sent) == ("none", "float32"):
        coded = model  # float32 sends the very numbers that there are before any codec
    elif audited != sent:
        wire = "the wire before any codec" if audited == "none" else f"a wire that is sent by {audited}"
        other = "float32" if audited == "none" else audited
        raise UserError(
            f"the card is about {wire}, this bundle sends {sent}; make the card with codec={sent!r} and train=..., or "
            f"export with codec={other!r}"
        )
    ours = digest_of(coded)
    if about.get("weights") != ours:
        raise UserError(
            f"the card is of another model ({str(about.get('weights'))[:12]}) than the one given ({ours[:12]}), or "
            "the grid of its codec was found on other images, its code was changed since, or another version of torch "
            "or Python, which may describe the same layers in another way, made it; make the card of this model here, "
            "with the same train="
        )
    return _summary(record)


def files(record: dict[str, Any], page: str) -> dict[str, bytes | str]:
    """Return the files of a card that was made in Python, by their path in the bundle, without paths of this machine.

    Args:
        record: of the card.
        page: the same for people.
    """
    return _files(record, page, {})


def _files(record: dict[str, Any], page: str | None, names: dict[str, str]) -> dict[str, bytes | str]:
    own = (record.get("model") or {}).get("run")
    names = names | {one: Path(one).name if one == own else _short(Path(one)) for one in _paths(record)}
    made: dict[str, bytes | str] = {"card.json": _without(json.dumps(record, indent=2, sort_keys=True) + "\n", names)}
    if page is not None:
        made["card.html"] = _without(page, names)
    return made


def _short(path: Path) -> str:
    """Return the name of a place; that of a coded run is told with the run, as the audited one has the same name."""
    return "/".join(path.parts[-3:]) if path.parent.name == FOLDER and len(path.parts) > 2 else path.name


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
