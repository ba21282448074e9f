"""The privacy card: an audit as one page that loads nothing, for screens, phones and two sheets of paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..report.thumbnails import strip_uri
from ..storage.files import json_digest, write_text
from . import words
from .record import HIDES, LEAKS, Audit, Bounded, as_json
from .run import PAGE, Found

TITLES = {"most": "most leaked", "median": "median", "least": "least leaked"}
ENLARGED = 128
"""Least pixels that the longer side of an image is shown with: each pixel of a smaller one becomes several."""


def write(found: Found, folder: Path) -> Path:
    """Write ``audit.html`` and return its path.

    Args:
        found: finished audit.
        folder: where it goes.
    """
    path = folder / PAGE
    write_text(path, page(found))
    return path


def page(found: Found) -> str:
    """Return the page as one HTML text without scripts.

    Args:
        found: finished audit.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    loaders = ChoiceLoader([PackageLoader("splitveil.audit"), PackageLoader("splitveil.report")])
    environment = Environment(loader=loaders, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    audit = found.audit
    return environment.get_template("card.html.j2").render(
        audit=audit,
        digest=json_digest(as_json(audit)),
        tone={LEAKS: "bad", HIDES: "good"}.get(audit.verdict.level, "middle"),
        pictures=_pictures(found),
        scale=_scale(audit),
        accuracy=words.accuracy(audit),
        figures=words.figures(audit),
        attacker=words.attacker(audit),
        percent=words.percent,
        bounds=[_bound(one, audit) for one in audit.bounds],
        assumptions=_assumptions(audit),
        refusals=words.refusals(audit),
        leakage=_leakage(audit),
        sent=words.sent(audit),
        wire=words.wire(audit),
        sampling=words.sampling(audit),
        size=_enlarged(*audit.model.image[-2:]),
    )


def _enlarged(height: int, width: int) -> dict[str, int]:
    """Return the size at which an image is shown, in its proportions."""
    factor = max(1.0, ENLARGED / max(height, width))
    return {"width": round(factor * width), "height": round(factor * height)}


def _pictures(found: Found) -> list[dict[str, Any]]:
    rows = []
    for name, picture in found.audit.pictures.items():
        original, reconstruction = (strip_uri(one[None]) for one in found.pictures[name])
        about = {"title": TITLES[name], "image": picture.image, "mse": f"{picture.mse:.4f}"}
        rows.append({**about, "original": original, "reconstruction": reconstruction})
    return rows


def _scale(audit: Audit) -> list[dict[str, Any]]:
    """Return marks on the line from no error to the largest ceiling: place in percent, name, figure."""
    ceilings = audit.ceilings
    marks = [("best attacker", audit.best_attacker.mse.mean), ("mean image of the true class", ceilings.class_mean)]
    marks.append(("mean image", ceilings.mean_image))
    if audit.reference is not None:
        marks.append((f"best attacker of {audit.reference.run}", audit.reference.mse.mean))
    most = max(value for _, value in marks)
    return [
        {"place": round(100 * value / most, 1), "name": name, "mse": f"{value:.4f}", "ours": name == "best attacker"}
        for name, value in sorted(marks, key=lambda mark: mark[1])
    ]


def _bound(one: Bounded, audit: Audit) -> dict[str, Any]:
    numbers = [1 + list(_numbered(audit)).index(text) for text in one.assumptions]
    return {"name": one.bound, "about": one.about, "says": words.said(one), "assumptions": numbers}


def _numbered(audit: Audit) -> dict[str, None]:
    return dict.fromkeys(text for one in audit.bounds for text in one.assumptions)


def _assumptions(audit: Audit) -> list[str]:
    return list(_numbered(audit))


def _leakage(audit: Audit) -> str:
    """Return the leakage in words, in bits per image and per pixel; what bounds it from above and from below."""
    upper, lower = audit.bound("leakage", "upper", "mixture"), audit.bound("leakage", "lower", "pairwise")
    if upper is None:
        reason = audit.refused.get("mixture", "the bound mixture was not asked for")
        return f"There is no upper bound on what the wire tells of an image: {reason}."
    whole, pixel = words.bits(upper, audit)
    text = f"The wire of one image tells at most {whole:,.0f} bits about it, {pixel:.2g} bits for each pixel"
    if lower is not None:
        text += f", and at least {words.bits(lower, audit)[0]:,.1f} bits"
    if audit.attacker.observed > 1:
        text += f"; the {audit.attacker.observed} wires that the attacker sees tell at most as many times as much"
    return text + ". Each holds under the assumptions that its row names."
