"""`splitveil audit`."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Column, Table

from .. import progress_bars
from ..errors import UserError
from ._shared import LOOK, MaybePlace, PlaceText, app, coded, out_console, say, show_flags

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


@Parameter(name="*")
@dataclass(frozen=True)
class Judging:
    """What a run is audited by.

    Args:
        suite: Frozen suite of attacks: quick-v4 unless you name another, such as standard-v4 for a GPU.
        bounds: Bound, name or name:key=value,...; may be repeated; every one by default.
        against: Run folder to compare with, best of the undefended model with the same seed; sent by the same codec.
        policy: YAML file of thresholds and requirements; exit code 1 where one is not met.
        formats: html, markdown (a section for a model card), or both.
        judge_epochs: Epochs of the classifier that looks at the reconstructions; 0 leaves it out.
    """

    suite: str | None = None
    bounds: Annotated[list[str] | None, Parameter(negative="")] = None
    against: MaybePlace = None
    policy: MaybePlace = None
    formats: Annotated[list[Literal["html", "markdown"]] | None, Parameter("--format", negative="")] = None
    judge_epochs: int | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class Cuts:
    """The cuts of a network, which --layers asks for.

    Args:
        layers: Compare the cuts of a network at equal accuracy: all, or names of layers with commas between them.
        out: Folder of the comparison.
        data: Image set of a network that is named; a run has its own.
        epochs: Epochs of the training of a network that is named.
        train_size: Use only this many training images in it.
        test_size: Use only this many test images.
        max_drop: Points of accuracy that the noise at each cut may cost.
        resume: Go on with a comparison in --out.
    """

    layers: str | None = None
    out: MaybePlace = None
    data: str | None = None
    epochs: int | None = None
    train_size: int | None = None
    test_size: int | None = None
    max_drop: float | None = None
    resume: Annotated[bool, Parameter(negative="")] = False


@app.command
def audit(
    run: PlaceText,
    *,
    root: MaybePlace = None,
    codec: str | None = None,
    judging: Judging | None = None,
    attacker: Attacker | None = None,
    cuts: Cuts | None = None,
) -> None:
    """Say whether a trained model may ship: attack it, bound what its wire gives away, judge it, write a privacy card.

    RUN/audit/ then holds audit.json and audit.html. An audit that was stopped goes on; attacks that are done are read.
    With --layers, compare the cuts of a network instead: where should it be split?

    Args:
        run: Run folder that `splitveil train` or `splitveil harden` made; with --layers also the name of a network.
        root: Folder of the images, where they have moved since the training.
        codec: Audit what a deployed device sends with this codec: auto, uint8, uint4, uint2, float16; the audit is then
            in RUN/coded/CODEC, a run folder like any other.
        judging: What a run is audited by.
        attacker: The attacker of the audit.
        cuts: The cuts of a network.
    """
    judging, attacker, cuts = judging or Judging(), attacker or Attacker(), cuts or Cuts()
    if cuts.layers is not None:
        _refuse("with --layers", judging, Judging())
        if codec:
            raise UserError("--codec says nothing with --layers; leave it out")
        _refuse("with --layers", replace(attacker, seed=0), Attacker())
        _compare_cuts(run, root, cuts, attacker.seed)
        return
    _refuse("without --layers", cuts, Cuts())
    found = _audited(Path(run), root, codec, judging, attacker)
    if found.policy is not None and not found.policy.met:
        raise SystemExit(UNMET)


def _refuse(when: str, given: Any, default: Any) -> None:
    """Refuse options that would be dropped."""
    named = [f.name for f in fields(given) if getattr(given, f.name) != getattr(default, f.name)]
    if named:
        flags = ", ".join("--" + name.replace("formats", "format").replace("_", "-") for name in named)
        raise UserError(f"{flags} says nothing {when}; leave it out")


def _compare_cuts(network: str, root: Path | None, cuts: Cuts, seed: int) -> None:
    from ..audit.cuts import Terms
    from ._cuts import show_cuts

    if cuts.out is None:
        raise UserError("--layers leaves a table and a picture; name their folder with --out")
    given = {name: getattr(cuts, name) for name in ("data", "epochs", "train_size", "test_size", "resume")}
    more = {name: value for name, value in given.items() if value is not None}
    terms = Terms() if cuts.max_drop is None else Terms(max_drop=cuts.max_drop)
    show_cuts(network, str(cuts.layers), out=cuts.out, root=root, seed=seed, terms=terms, **more)


def _audited(run: Path, root: Path | None, codec: str | None, judging: Judging, attacker: Attacker) -> Audit:
    from .. import runs
    from ..audit import card, model_card
    from ..audit import run as audits
    from ..audit.policy import Policy

    rules = (str(judging.policy), Policy.read(judging.policy)) if judging.policy else None
    opened = runs.Run.open(run)
    reference = runs.Run.open(judging.against) if judging.against else None
    images = runs.load_images(opened.settings.model_copy(update={"root": root}) if root else opened.settings)
    if codec:
        opened = coded(opened, images, codec)
    terms = audits.Terms(
        suite=judging.suite or audits.SUITE,
        bounds=tuple(judging.bounds) if judging.bounds else None,
        judge_epochs=judging.judge_epochs,
        **vars(attacker),
    )
    with progress_bars.bars() as bar:
        about = {"against": reference, "policy": rules, "shown": audits.Shown.on(bar)}
        found = audits.audit(opened, images, terms, command=shlex.join(["splitveil", *sys.argv[1:]]), **about)
    folder = opened.path / audits.FOLDER
    written = [folder / audits.FILE]
    for kind in judging.formats or ["html"]:
        written.append(card.write(found, folder) if kind == "html" else model_card.write(found.audit, folder))
    _show(found.audit, written)
    return found.audit


def _show(audit: Audit, written: list[Path]) -> None:
    from ..audit.words import wire
    from ..evaluation.suites import superseded

    out_console.print(_table(audit))
    say("")
    say(f"Verdict: {audit.verdict.level}.")
    say(audit.verdict.sentence)
    for reason in audit.verdict.because:
        say(reason)
    if about := wire(audit):
        say(about)
    for name, reason in audit.skipped.items():
        say(f"attack left out: {name}: {reason}")
    if note := superseded(audit.attacker.suite):
        say(note)
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
