"""The page of a bench folder: which trade-offs are best, what CEM adds, what an attacker recovers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..evaluation.evaluate import ARRAYS
from ..results import tables
from ..results.ceiling import name_of
from ..results.findings import Findings, Part
from ..results.published_tables import method
from ..results.record_types import Failure, Machine
from ..results.tables import percent
from ..statistics.evidence import points_of
from ..storage.files import write_text
from . import captions, plots, published_table, thumbnails
from .page_data import page_data

LOG_LINES, LOG_BYTES, FAILURES = 20, 32 * 2**10, 50
SCRIPTS = ("bench_parts.js", "bench_plots.js", "bench.js")
SECTIONS = {
    "opening": "Pictures",
    "tradeoff": "Trade-off",
    "gain": "CEM’s gain",
    "equal": "Equal accuracy",
    "paper": "Published table",
    "curves": "Learning curves",
    "pictures": "More pictures",
    "leakage": "Leakage",
    "cells": "All cells",
    "failed": "Failed",
    "how": "How it was measured",
}
ABSENT = {
    "equal": "Not on this page, defenses against noise alone at equal accuracy: no defense of this grid has noise "
    "alone at three strengths or more beside it; run the grid with --baseline noise.",
    "paper": "Not on this page, the published table beside ours: no cell of this grid is a row of it. The image set, "
    "network, cut, an 8-channel wire, the defense, σ = 0.025 (more in the rows Noise_…) and λ = 16 must be the "
    "published ones, and published/decoder or published/gan the attack. The presets paper/… make such cells.",
}
"""What a page without these sections says instead."""


def build(folder: str | Path, out: str | Path | None = None, note: Callable[[str], object] | None = None) -> Path:
    """Write the report of a bench folder; return the page's path.

    Args:
        folder: made by ``splitveil bench``.
        out: where report.html, plots/ and tables/ go; the folder itself by default.
        note: called with each line on what the page leaves out, as `left_out`.

    Raises:
        UserError: no bench folder, no finished cell, a record that is damaged or of another schema, or ``out`` cannot
            be written.
    """
    findings = Findings.read(folder)
    out = Path(folder if out is None else out)
    found = findings.tables()
    tables.write(out / "tables", found)
    drawn = plots.draw(out / "plots", findings.parts)
    base = quote(Path(os.path.relpath(folder, out)).as_posix())
    shown = thumbnails.gather(findings.folder, findings.by_need())
    write_text(out / "report.html", page(findings, found, drawn, shown, base))
    if note:
        for line in left_out(findings, shown):
            note(line)
    return out / "report.html"


def left_out(findings: Findings, shown: thumbnails.Strips) -> list[str]:
    """Return a line for each cell, attack and picture that the page leaves out as files are not what they should be.

    Args:
        findings: everything that the page shows.
        shown: its pictures.
    """
    pictures = [f"The pictures of cell {name} are left out: {why}." for name, why in shown.damaged.items()]
    lines = [*findings.notes, *pictures]
    more = [f"Left out like these: {len(lines) - FAILURES:,} more."] if len(lines) > FAILURES else []
    return [*lines[:FAILURES], *more]


def page(
    findings: Findings,
    found: Sequence[tables.Table],
    drawn: Sequence[dict[str, Path]],
    shown: thumbnails.Strips,
    base: str = ".",
) -> str:
    """Return the page as one self-contained HTML text: it loads nothing, and no script runs but its own.

    Args:
        findings: everything that the page shows.
        found: the tables, of which the page offers to save ``cells`` and ``cem_gain``.
        drawn: the PNG files of each part's plots, which are shown on paper and without scripts.
        shown: pictures of the cells.
        base: the bench folder as an address, seen from the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("splitveil.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    csv = {table.stem: {"name": f"{table.stem}.csv", "text": table.csv()} for table in found}
    data = {**page_data(findings), "csv": {"cells": csv["cells"], "gains": csv["cem_gain"]}, "base": base}
    scripts, effects, parts = _scripts(), findings.effects, findings.parts
    opening, unfinished = _opening(parts[0], shown), _unfinished(findings)
    absent = {"paper": not any(part.published for part in parts), "equal": not findings.equal}
    absent |= {"pictures": len(shown.cells) <= len(opening["rows"]) and not _pictures_note(shown)}
    absent |= {"failed": not findings.failed and not unfinished}
    return environment.get_template("bench.html.j2").render(
        script_sources=Markup(" ".join(f"'{_digest(script)}'" for script in scripts)),
        scripts=[Markup(script) for script in scripts],
        data=_json(data),
        pictures=_json({"cells": shown.cells, "originals": shown.originals}),
        sections={name: title for name, title in SECTIONS.items() if not absent.get(name)},
        absent=[text for name, text in ABSENT.items() if absent[name]],
        opening=opening,
        notes=[*left_out(findings, shown), *_descriptions(findings)],
        ends=parts[0].group,
        undefended=name_of([share for share in findings.shares.values() if share.value]),
        arenas=[{"name": p.group.name, "plots": _uris(plot)} for p, plot in zip(parts, drawn, strict=True)],
        eyebrow=_eyebrow(findings),
        headline=captions.headline(findings.groups, effects, findings.margin, findings.equal),
        leads=_leads(findings),
        certainty=captions.certainty(findings.groups),
        gains=effects,
        accuracy_paired=all(effect.accuracy_paired for effect in effects),
        several_seeds=any(len(effect.seeds) > 1 for effect in effects),
        no_gain=_no_effect(findings),
        equal_titles=tables.EQUAL,
        equal=[_equal(part) for part in parts if part.equal],
        papers=[published_table.for_page(part.published) for part in parts if part.published],
        pictures_note=_pictures_note(shown),
        leakage_words=_leakage(findings),
        failures=[_failure(findings.folder, note) for note in findings.failed[:FAILURES]],
        failures_left_out=max(0, len(findings.failed) - FAILURES),
        unfinished=unfinished,
        commands=_commands(findings),
        settings=_settings(findings).items(),
    )


def _scripts() -> list[str]:
    """Return the scripts of the page: the library that draws, and our own."""
    from plotly.offline import get_plotlyjs

    ours = "\n".join(files("splitveil.report").joinpath("templates", name).read_text("utf-8") for name in SCRIPTS)
    return [get_plotlyjs().replace("</script", r"<\/script"), f'(() => {{\n"use strict";\n{ours}\n}})();']


def _leads(findings: Findings) -> list[str]:
    first = (
        captions.chance(findings.groups),
        captions.cem(findings.effects, findings.margin),
        captions.equal_accuracy(findings.equal),
    )
    fronts = [captions.front(group, len(findings.groups) > 1) for group in findings.groups]
    ceilings = [captions.ceiling(part.group, part.shares, len(findings.groups) > 1) for part in findings.parts]
    return [*filter(None, first), *fronts, *filter(None, ceilings)]


def _equal(part: Part) -> dict[str, Any]:
    """Return the rows of the table at equal accuracy, under the name of their group."""
    return {"title": part.group.name, "rows": [tables.equal_cells(row, part.shares) for row in part.equal]}


def _opening(part: Part, shown: thumbnails.Strips) -> dict[str, Any]:
    """Return the originals above what the strongest attack made of them, for the cells that `Part.opening` names."""
    rows = []
    originals = None
    for title, one, record in part.opening:
        strip = shown.cells.get(record.id)
        if strip is None or originals not in (None, strip["originals"]):
            continue
        originals = strip["originals"]
        attack = record.attacks[record.strongest]
        about = f"{percent(record.accuracy).split()[0]} % accurate; {record.strongest}: MSE {attack.mse}"
        if attack.reidentified and attack.recognized:
            read, most = (f"{100 * share.mean:.0f} %" for share in (attack.reidentified, attack.recognized))
            about += f"; an independent classifier reads {read} (originals: {most})"
        rows.append({"title": f"{title}: {one.name}", "about": about, **strip})
    digits = 4 if min((error for row in rows for error in row["errors"]), default=1.0) < 0.0045 else 3
    for row in rows:
        row["errors"] = [f"{error:.{digits}f}" for error in row["errors"]]
    return {"rows": rows, "originals": shown.originals[originals] if originals else None}


def _leakage(findings: Findings) -> str:
    texts = {group.name: captions.leakage(group) for group in findings.groups}
    return " ".join(f"{name}: {text}" if len(texts) > 1 else text for name, text in texts.items() if text)


def _eyebrow(findings: Findings) -> str:
    grids = ", ".join(dict.fromkeys(record.grid for record in findings.records if record.grid))
    last = max(record.finished for record in findings.records)[:10]
    failed = f", {len(findings.failed)} failed" if findings.failed else ""
    return " · ".join(filter(None, ["SplitVeil bench", grids, f"{len(findings.records):,} cells{failed}", last]))


def _no_effect(findings: Findings) -> str:
    if not any(one.cem for group in findings.groups for one in group.configurations):
        return "No cell was trained with CEM."
    return (
        "No cell with CEM has a partner without that was trained with the same seed and attacked on the same images; "
        "add cem:0 to the grid, which measures and trains nothing."
    )


def _pictures_note(shown: thumbnails.Strips) -> str:
    notes = []
    if shown.left_out:
        notes.append(
            f"The page holds the pictures of {len(shown.cells):,} cells, those on the front and then the newest; of "
            f"{shown.left_out:,} they are only in the folder."
        )
    if shown.without_arrays:
        notes.append(
            f"The pictures of {shown.without_arrays:,} cells are left out: there is no {ARRAYS} of their images in the "
            "folder of the strongest attack. Where reconstructions.png is there, it shows them."
        )
    return " ".join(notes)


def _failure(folder: Path, note: Failure) -> dict[str, Any]:
    axes = ", ".join(f"{key} {_plain(value)}" for key, value in note.axes.items())
    tries = f"{note.attempts} attempt{'s' if note.attempts != 1 else ''}"
    tail = _tail(folder / note.log) if note.log else ""
    about = {"id": note.id, "error": note.error, "log": note.log}
    return {"name": axes or note.id, "tail": tail, "attempts": tries, **about}


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"(the log cannot be read: {error.strerror})"
    return "\n".join(text.replace("\r", "\n").splitlines()[-LOG_LINES:])


def _unfinished(findings: Findings) -> str:
    left, planned = findings.unfinished
    return f"{left:,} of {planned:,} cells are not finished yet; the same command goes on with them." if left else ""


def _descriptions(findings: Findings) -> list[str]:
    return list(dict.fromkeys(about.description for about in findings.grids if about.description))


def _commands(findings: Findings) -> str:
    """Return what was typed; of a grid that was not run by the command line, its name."""
    given = {about.name: about.command for about in findings.grids if about.command}
    grids = dict.fromkeys(record.grid or "GRID" for record in findings.records)
    lines = [given.get(grid, f"splitveil bench {shlex.quote(grid)} --out DIR") for grid in grids]
    return "\n".join([*lines, f"splitveil report {shlex.quote(str(findings.folder))}"])


def _settings(findings: Findings) -> dict[str, str]:
    found = findings.records
    trained = [record.timings for record in found if record.trained_as is None]
    hours = (
        sum(timings.train for timings in trained),
        sum(timings.tail or 0.0 for timings in trained),
        sum(sum(record.timings.attacks.values()) for record in found),
    )
    attacks = dict.fromkeys(json.dumps(attack.attack) for record in found for attack in record.attacks.values())
    margin = ", the default: none was named beforehand"
    if findings.named_margin is not None:
        margin = ", named before the first cell was done"
    return {
        "Machine": _counted([_machine(record.environment) for record in found]),
        "Versions": _counted(
            [f"splitveil {e.splitveil}, torch {e.torch}, Python {e.python}" for e in (r.environment for r in found)]
        ),
        "Code (git commit)": _counted(
            [f"{r.git.commit[:10]}{' (changed)' if r.git.dirty else ''}" if r.git else "none" for r in found]
        ),
        "Seeds": ", ".join(map(str, sorted({record.seed for record in found}))),
        "Margin of accuracy": points_of(findings.margin) + margin,
        "Protocol": _counted([record.protocol for record in found]),
        "Epochs of training": _counted([record.config.get("epochs") for record in found]),
        "Training images": _counted([record.config.get("train_size") or "all" for record in found]),
        "Attacker’s images": _counted([record.attacker_size or "all that the protocol gives" for record in found]),
        "Attacked images": _counted([record.attacked or "all that the protocol gives" for record in found]),
        "Attacks": "; ".join(map(_attack_text, attacks)),
        "Hours": "{:.1f} of training, {:.1f} of retraining tails, {:.1f} of attacks, summed over the cells".format(
            *(seconds / 3600 for seconds in hours)
        ),
        "Rows of the published table": _counted([method(record.config) or "none" for record in found]),
        "Report": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _machine(about: Machine) -> str:
    threads = f", {about.threads} threads" if about.threads is not None else ""
    return f"{about.gpu or about.processor}, {about.cores} cores{threads}"


def _attack_text(text: str) -> str:
    ((name, parameters),) = json.loads(text).items()
    return f"{name}:" + ",".join(f"{key}={value}" for key, value in parameters.items()) if parameters else name


def _counted(values: Sequence[Any]) -> str:
    """Each value once, with how often it occurs where there are several.

    >>> _counted([1, 1]), _counted([1, 2, 1])
    ('1', '1 (2 cells), 2 (1 cell)')
    """
    found = Counter(map(str, values)).most_common()
    if len(found) == 1:
        return found[0][0]
    return ", ".join(f"{value} ({count:,} cell{'s' if count != 1 else ''})" for value, count in found)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " + ".join(map(_plain, value))
    return value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)


def _uris(drawn: dict[str, Path]) -> dict[str, str]:
    pngs = {stem: base64.b64encode(path.read_bytes()).decode("ascii") for stem, path in drawn.items()}
    return {stem: f"data:image/png;base64,{pngs[stem]}" if stem in pngs else "" for stem in plots.STEMS}


def _json(value: Any) -> Any:
    """JSON for inside a script element: no name in it can end the element."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", r"\u003c").replace("\u2028", r"\u2028").replace("\u2029", r"\u2029"))


def _digest(script: str) -> str:
    """Return what the page's security policy knows a script by: any other that got into the page would not run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
