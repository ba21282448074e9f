"""The page of a bench folder: which trade-offs are best, what CEM adds, what an attacker recovers."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from ..results import export, records
from ..results.cem_effect import Gain, gains
from ..results.equal_accuracy import Equal, equals
from ..results.groups import Arena, arenas
from ..results.published_tables import method
from ..statistics.evidence import MARGIN, points_of
from ..storage.files import write_text
from . import captions, equal_accuracy_table, plots, thumbnails
from .page_data import page_data
from .published_table import Line, for_page, lines, table

T = TypeVar("T")
LOG_LINES, LOG_BYTES, FAILURES = 20, 32 * 2**10, 50
SCRIPTS = ("bench_parts.js", "bench_plots.js", "bench.js")
SECTIONS = {
    "tradeoff": "Trade-off",
    "gain": "CEM’s gain",
    "equal": "Equal accuracy",
    "paper": "Published table",
    "curves": "Learning curves",
    "pictures": "Pictures",
    "leakage": "Leakage",
    "cells": "All cells",
    "failed": "Failed",
    "how": "How it was measured",
}


@dataclass(frozen=True)
class Bench:
    """Everything that a bench folder says.

    Attributes:
        gains, equal, published: one list for each arena.
        failed: cells that were given up.
    """

    folder: Path
    records: Sequence[dict[str, Any]]
    failed: Sequence[dict[str, Any]]
    arenas: Sequence[Arena]
    gains: Sequence[Sequence[Gain]]
    equal: Sequence[Sequence[Equal]]
    published: Sequence[Sequence[Line]]
    grids: Sequence[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> Bench:
        """Read a bench folder.

        Raises:
            UserError: as `records.gather`.
        """
        found = records.gather(folder)
        groups = arenas(found)
        return cls(
            folder,
            found,
            records.failures(folder),
            groups,
            [gains(folder, arena) for arena in groups],
            [equals(folder, arena) for arena in groups],
            [lines(arena) for arena in groups],
            records.grids(folder),
        )

    @property
    def margin(self) -> float:
        """Loss of accuracy that is to be excluded, in points: the smallest that a grid has named, else the default."""
        return records.named_margin([self.folder]) or MARGIN

    def all_gains(self) -> list[Gain]:
        """Those of all arenas."""
        return [gain for found in self.gains for gain in found]


def build(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a bench folder; returns the page's path.

    Args:
        folder: made by ``splitveil bench``.
        out: where report.html, plots/, tables/ and records.sqlite go; the folder itself by default.

    Raises:
        UserError: no bench folder, no finished cell, a record that is damaged or of another schema, or ``out`` cannot
            be written.
    """
    bench = Bench.read(Path(folder))
    out = Path(folder if out is None else out)
    records.write_database(out / records.DATABASE, bench.records)
    tables = _tables(bench)
    export.write(out / "tables", tables)
    drawn = plots.draw(out / "plots", bench.arenas, bench.gains)
    base = quote(Path(os.path.relpath(folder, out)).as_posix())
    write_text(out / "report.html", page(bench, tables, drawn, base))
    return out / "report.html"


def page(bench: Bench, tables: Sequence[export.Table], drawn: dict[str, dict[str, Path]], base: str = ".") -> str:
    """The page as one self-contained HTML text: it loads nothing, and no script runs but its own.

    Args:
        tables: those that the page offers to save: ``cells`` and ``cem_gain``.
        drawn: the PNG files of the plots, which are shown on paper and without scripts.
        base: the bench folder as an address, seen from the page.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("splitveil.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    csv = {t.stem: {"name": f"{t.stem}.csv", "text": t.csv()} for t in tables}
    data = page_data(bench.arenas, bench.gains, bench.equal, {"cells": csv["cells"], "gains": csv["cem_gain"]}) | {
        "base": base
    }
    shown = thumbnails.gather(bench.folder, _by_need(bench))
    ours = "\n".join(files("splitveil.report").joinpath("templates", name).read_text("utf-8") for name in SCRIPTS)
    scripts = [get_plotlyjs().replace("</script", r"<\/script"), f'(() => {{\n"use strict";\n{ours}\n}})();']
    several = len(bench.arenas) > 1
    return environment.get_template("bench.html.j2").render(
        script_sources=Markup(" ".join(f"'{_digest(script)}'" for script in scripts)),
        scripts=[Markup(script) for script in scripts],
        data=_json(data),
        pictures=_json({"cells": shown.cells, "originals": shown.originals}),
        sections=SECTIONS.items(),
        arenas=[{"name": arena.name, "plots": _uris(drawn[arena.name])} for arena in bench.arenas],
        eyebrow=_eyebrow(bench),
        headline=captions.headline(bench.arenas, bench.all_gains(), bench.margin),
        leads=_leads(bench, several),
        certainty=captions.certainty(bench.arenas),
        gains=bench.all_gains(),
        accuracy_paired=all(gain.accuracy_paired for gain in bench.all_gains()),
        several_seeds=any(len(gain.seeds) > 1 for gain in bench.all_gains()),
        no_gain=_no_gain(bench),
        equal=[
            equal_accuracy_table.for_page(a, found) for a, found in zip(bench.arenas, bench.equal, strict=True) if found
        ],
        papers=[for_page(a, found) for a, found in zip(bench.arenas, bench.published, strict=True) if found],
        pictures_note=_pictures_note(shown),
        leakage_words=" ".join(
            f"{arena.name}: {text}" if several else text for arena in bench.arenas if (text := captions.leakage(arena))
        ),
        failures=[_failure(bench.folder, note) for note in bench.failed[:FAILURES]],
        failures_left_out=max(0, len(bench.failed) - FAILURES),
        unfinished=_unfinished(bench),
        commands=_commands(bench),
        settings=_settings(bench).items(),
    )


def _tables(bench: Bench) -> list[export.Table]:
    def each(groups: Sequence[Sequence[T]]) -> list[tuple[Arena, T]]:
        return [(arena, one) for arena, found in zip(bench.arenas, groups, strict=True) for one in found]

    at_equal = {id(row.setup): equal_accuracy_table.short(row) for found in bench.equal for row in found}
    gained = export.gains_table(each(bench.gains), at_equal)
    equal = equal_accuracy_table.table(each(bench.equal))
    return [export.cells_table(bench.arenas), gained, equal, table(each(bench.published))]


def _by_need(bench: Bench) -> list[dict[str, Any]]:
    """The records, those on a front first (of each setup the first seed before all others), then the newest."""
    best = [arena.setups[place].records for arena in bench.arenas for place in arena.front]
    need = {record["id"]: min(place, 1) for setup in best for place, record in enumerate(setup)}
    newest = sorted(bench.records, key=lambda record: record["finished"], reverse=True)
    return sorted(newest, key=lambda record: need.get(record["id"], 2))


def _leads(bench: Bench, several: bool) -> list[str]:
    texts = [captions.front(arena, several) for arena in bench.arenas]
    at_equal = equal_accuracy_table.words([row for found in bench.equal for row in found])
    return [*texts, *filter(None, [captions.cem(bench.all_gains(), bench.margin), at_equal])]


def _eyebrow(bench: Bench) -> str:
    grids = ", ".join(dict.fromkeys(record["grid"] for record in bench.records if record["grid"]))
    last = max(record["finished"] for record in bench.records)[:10]
    failed = f", {len(bench.failed)} failed" if bench.failed else ""
    return " · ".join(filter(None, ["SplitVeil bench", grids, f"{len(bench.records):,} cells{failed}", last]))


def _no_gain(bench: Bench) -> str:
    setups = [setup for arena in bench.arenas for setup in arena.setups]
    if not any(setup.cem for setup in setups):
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
            f"The pictures of {shown.without_arrays:,} cells are left out: an earlier version attacked them and kept "
            "no arrays of their images. Look at reconstructions.png in their folders."
        )
    return " ".join(notes)


def _failure(folder: Path, note: dict[str, Any]) -> dict[str, Any]:
    axes = ", ".join(f"{key} {_plain(value)}" for key, value in note["axes"].items())
    tries = f"{note['attempts']} attempt{'s' if note['attempts'] != 1 else ''}"
    tail = _tail(folder / note["log"]) if note["log"] else ""
    return {"name": axes or note["id"], "tail": tail, "attempts": tries, **{k: note[k] for k in ("id", "error", "log")}}


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LOG_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError as error:
        return f"(the log cannot be read: {error.strerror})"
    return "\n".join(text.replace("\r", "\n").splitlines()[-LOG_LINES:])


def _unfinished(bench: Bench) -> str:
    """Which cells of the grids that were run here, or that were begun, are neither done nor given up."""
    planned = {path.name for path in (bench.folder / "cells").iterdir() if path.is_dir()}
    planned |= {cell for about in bench.grids for cell in about["cells"]}
    failed = {note["id"] for note in bench.failed}
    planned |= failed
    left = planned - failed - {record["id"] for record in bench.records}
    if not left:
        return ""
    return f"{len(left):,} of {len(planned):,} cells are not finished yet; the same command goes on with them."


def _commands(bench: Bench) -> str:
    """What was typed; of a grid that was not run by the command line, its name."""
    given = {about["name"]: about["command"] for about in bench.grids if about["command"]}
    grids = dict.fromkeys(record["grid"] or "GRID" for record in bench.records)
    lines = [given.get(grid, f"splitveil bench {shlex.quote(grid)} --out DIR") for grid in grids]
    return "\n".join([*lines, f"splitveil report {shlex.quote(str(bench.folder))}"])


def _settings(bench: Bench) -> dict[str, str]:
    named = records.named_margin([bench.folder]) is not None
    found, environments = bench.records, [record["environment"] for record in bench.records]
    machines = [
        f"{e.get('gpu') or e.get('processor')}, {e.get('cores')} cores"
        + (f", {e['threads']} threads" if "threads" in e else "")
        for e in environments
    ]
    commits = [f"{g['commit'][:10]}{' (changed)' if g['dirty'] else ''}" if (g := r["git"]) else "none" for r in found]
    training = sum(record["timings"]["train"] for record in found if "trained_as" not in record)
    attacks = sum(sum(record["timings"]["attacks"].values()) for record in found)
    tails = sum(record["timings"].get("tail", 0.0) for record in found if "trained_as" not in record)
    attacks_named = list(dict.fromkeys(json.dumps(a["attack"]) for r in found for a in r["attacks"].values()))
    return {
        "Machine": _counted(machines),
        "Versions": _counted(
            [f"splitveil {e.get('splitveil')}, torch {e.get('torch')}, Python {e.get('python')}" for e in environments]
        ),
        "Code (git commit)": _counted(commits),
        "Seeds": ", ".join(map(str, sorted({record["config"]["seed"] for record in found}))),
        "Margin of accuracy": points_of(bench.margin)
        + (", named before the first cell was done" if named else ", the default: none was named beforehand"),
        "Protocol": _counted([record["protocol"] for record in found]),
        "Epochs of training": _counted([record["config"].get("epochs") for record in found]),
        "Training images": _counted([record["config"].get("train_size") or "all" for record in found]),
        "Attacker’s images": _counted([record["attacker_size"] or "all that the protocol gives" for record in found]),
        "Attacked images": _counted([record["attacked"] or "all that the protocol gives" for record in found]),
        "Attacks": "; ".join(_attack_text(text) for text in attacks_named),
        "Hours": f"{training / 3600:.1f} of training, {tails / 3600:.1f} of retraining tails, {attacks / 3600:.1f} of "
        "attacks, summed over the cells",
        "Rows of the published table": _counted([method(record["config"]) or "none" for record in found]),
        "Report": datetime.now(UTC).isoformat(timespec="seconds"),
    }


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
    """What the page's security policy knows a script by: any other that got into the page would not run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
