"""`splitveil audit`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Column, Table

from .. import progress_bars
from ._shared import LOOK, MaybePlace, Place, app, out_console, say, show_flags

if TYPE_CHECKING:
    from ..audit.record import Audit

UNMET = 1
"""Exit code where the policy is not met."""


@Parameter(name="*")
@dataclass(frozen=True)
class Attacker:
    """The attacker of the audit.

    Args:
        protocol: train_time, inference_time or auxiliary; by default that of the run's training.
        attacker_size: Let the attacker have only this many images.
        attacked: Reconstruct this many images; at most 1,000 by default.
        observed: Wires of each image that the attacker sees.
        seed: Seed of attacks and bounds.
    """

    protocol: str | None = None
    attacker_size: int | None = None
    attacked: int | None = None
    observed: int = 1
    seed: int = 0


@app.command
def audit(
    run: Place,
    *,
    suite: str = "quick-v2",
    bounds: Annotated[list[str] | None, Parameter(negative="")] = None,
    against: MaybePlace = None,
    policy: MaybePlace = None,
    formats: Annotated[list[Literal["html", "markdown"]] | None, Parameter("--format", negative="")] = None,
    judge_epochs: int | None = None,
    root: MaybePlace = None,
    attacker: Attacker | None = None,
) -> None:
    """Say whether a trained model may ship: attack it, bound what its wire gives away, judge it, write a privacy card.

    RUN/audit/ then holds audit.json and audit.html. An audit that was stopped goes on; attacks that are done are read.

    Args:
        run: Run folder that `splitveil train` or `splitveil harden` made.
        suite: Frozen suite of attacks: quick-v2, or standard-v2 for a GPU.
        bounds: Bound, name or name:key=value,...; may be repeated; every one by default.
        against: Run folder to compare with, best of the undefended model with the same seed.
        policy: YAML file of thresholds and requirements; exit code 1 where one is not met.
        formats: html, markdown (a section for a model card), or both.
        judge_epochs: Epochs of the classifier that looks at the reconstructions; 0 leaves it out.
        root: Folder of the images, where they have moved since the training.
        attacker: The attacker of the audit.
    """
    from .. import runs
    from ..audit import card, model_card
    from ..audit import run as audits
    from ..audit.policy import Policy

    rules = (str(policy), Policy.read(policy)) if policy else None
    opened, reference = runs.Run.open(run), runs.Run.open(against) if against else None
    images = runs.load_images(opened.settings.model_copy(update={"root": root}) if root else opened.settings)
    asked = {"suite": suite, "bounds": tuple(bounds) if bounds else None, "judge_epochs": judge_epochs}
    terms = audits.Terms(**asked, **vars(attacker or Attacker()))
    with progress_bars.bars() as bar:
        found = audits.audit(
            opened,
            images,
            terms,
            against=reference,
            policy=rules,
            command=shlex.join(["splitveil", *sys.argv[1:]]),
            shown=audits.Shown.on(bar),
        )
    folder = run / audits.FOLDER
    written = [folder / audits.FILE]
    for kind in formats or ["html"]:
        written.append(card.write(found, folder) if kind == "html" else model_card.write(found.audit, folder))
    _show(found.audit, written)
    if found.audit.policy is not None and not found.audit.policy.met:
        raise SystemExit(UNMET)


def _show(audit: Audit, written: list[Path]) -> None:
    out_console.print(_table(audit))
    say("")
    say(f"Verdict: {audit.verdict.level}.")
    say(audit.verdict.sentence)
    for reason in audit.verdict.because:
        say(reason)
    for name, reason in audit.skipped.items():
        say(f"attack left out: {name}: {reason}")
    show_flags(audit.flags)
    if audit.policy is not None:
        say("")
        out_console.print(_policy(audit.policy))
    for path in written:
        say(f"look at {path}")


def _table(audit: Audit) -> Table:
    from ..audit.words import bound_rows, figures

    columns = Column("", overflow="fold"), Column("figure", overflow="fold")
    table = Table(*columns, title=escape(f"{audit.model.run}: privacy card"), title_justify="left", **LOOK)
    for title, value in [*figures(audit), *bound_rows(audit)]:
        table.add_row(escape(title), escape(value))
    return table


def _policy(judged: Any) -> Table:
    title = f"{judged.file}: {'met' if judged.met else 'NOT met'}"
    table = Table("requirement", "measured", "asked for", "", title=escape(title), title_justify="left", **LOOK)
    for line in judged.lines:
        table.add_row(line.requirement, escape(line.measured), escape(line.limit), "met" if line.met else "NOT met")
    return table
