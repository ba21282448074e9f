"""The audit as a section of a model card, in Markdown as model hubs show it."""

from __future__ import annotations

from pathlib import Path

from ..storage.files import write_text
from .record import Audit
from .words import attacker, bound_rows, figures, sampling, wire

FILE = "audit.md"


def write(audit: Audit, folder: Path) -> Path:
    """Write ``audit.md`` and return its path.

    Args:
        audit: of the model.
        folder: where it goes.
    """
    path = folder / FILE
    write_text(path, markdown(audit))
    return path


def markdown(audit: Audit) -> str:
    """Return the section.

    Args:
        audit: of the model.
    """
    model, device = audit.model, audit.device
    lines = ["## Privacy evaluation", "", f"**Verdict: {audit.verdict.level}.** {audit.verdict.sentence}", ""]
    lines += [*audit.verdict.because, "", wire(audit), ""]
    lines += ["### Results", "", *_table(("", "figure"), figures(audit)), ""]
    attacks = [
        (label, str(one.mse), str(one.ssim), "; ".join(one.flags) or "none") for label, one in audit.attacks.items()
    ]
    lines += ["### Attacks", "", attacker(audit), "", *_table(("attack", "MSE", "SSIM", "flags"), attacks), ""]
    lines += ["### Bounds and estimates", "", *_table(("", "says"), bound_rows(audit)), ""]
    lines += ["Each holds under these assumptions only:", "", *_assumptions(audit), ""]
    lines += ["### Testing factors", ""]
    lines += [
        f"- Model: {model.network}, cut {model.cut}; defenses: {', '.join(model.defense) or 'none'}.",
        f"- Images: {model.data}, {model.classes} classes.",
        f"- On the device: {device.multiply_adds:,} multiply-adds, {device.parameters:,} parameters, {device.bytes:,} "
        "bytes on the wire for each image.",
        f"- {sampling(audit)}",
        f"- Flags: {'; '.join(audit.flags) or 'none'}.",
        f"- Made by SplitVeil {audit.environment.get('splitveil')} on {audit.date} with `{audit.command}`, seed "
        f"{audit.attacker.seed}; weights {model.weights[:12]}, attacked images {audit.attacker.attacked_digest[:12]}.",
    ]
    return "\n".join(lines) + "\n"


def _assumptions(audit: Audit) -> list[str]:
    by_text: dict[str, list[str]] = {}
    for one in audit.bounds:
        for text in one.assumptions:
            names = by_text.setdefault(text, [])
            names += [one.bound] if one.bound not in names else []
    return [f"- {text} ({', '.join(names)})" for text, names in by_text.items()]


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    cells = [titles, tuple("---" for _ in titles), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
