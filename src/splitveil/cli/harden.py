"""`splitveil harden`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from .. import progress_bars
from ._shared import LOOK, MaybePlace, Place, app, duration, interval, out_console, say, show_flags

if TYPE_CHECKING:
    from .. import runs
    from ..data import ImageSet


@app.command
def harden(
    run: Place,
    *,
    out: Place,
    max_drop: float = 1.0,
    root: MaybePlace = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Put noise on the wire of a trained run in the directions that the task needs least, within a loss of accuracy.

    The encoder stays as it is: deployed devices need only a new matrix. OUT becomes a run folder like any other, with
    hardening.json and hardening.png: what was tried.

    Args:
        run: Run folder that `splitveil train` made.
        out: Folder of the hardened run.
        max_drop: Points of accuracy on the validation images that may be lost.
        root: Folder of the images, where they have moved since the training.
        resume: Go on with a hardening in --out that was stopped.
    """
    from .. import runs
    from ..hardening import run as hardening

    opened = runs.Run.open(run)
    images = runs.load_images(opened.settings.model_copy(update={"root": root}) if root else opened.settings)
    with progress_bars.bars() as bar:
        task = bar.add_task("hardening", total=None, note="")

        def show(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        summary = hardening.harden(opened, images, out, max_drop=max_drop, resume=resume, show=show)
    _print(summary, str(out))
    show_flags(_flags(opened, images))
    say(f"curve: {out / hardening.PICTURE}")
    say(f"attack it: {shlex.join(['splitveil', 'attack', str(out), '--suite', 'quick-v4'])}")


def _flags(base: runs.Run, images: ImageSet) -> list[str]:
    """Return why a loss of accuracy says nothing, where the network had learned nothing before."""
    from ..data.protocol import protocol
    from ..evaluation.reliability import at_chance
    from ..statistics.intervals import Interval

    known, settings = base.summary["accuracy"], base.settings
    tested = protocol(settings.protocol, images, seed=settings.seed).utility_test
    return at_chance(Interval.from_dict(known) if known else None, tested.labels, about="the noise")


def _print(summary: dict[str, Any], title: str) -> None:
    found = summary["hardening"]
    tried = Table("loss, nats", "μ", "numbers sent", "accuracy %", "linear MSE", "", title=escape(title), **LOOK)
    for number, step in sorted(enumerate(found["steps"]), key=lambda pair: (pair[1]["loss"], pair[1]["whole"])):
        verdict = "chosen" if number == found["chosen"] else "" if step["accepted"] else "too much"
        verdict = f"all images{', ' if verdict else ''}{verdict}" if step["whole"] else verdict
        tried.add_row(
            f"{step['loss']:.3g}",
            f"{step['mu']:.2g}",
            f"{step['sent']}",
            f"{100 * step['accuracy']:.1f}",
            f"{step['linear_error']:.4f}",
            verdict,
        )
    out_console.print(tried)
    table = Table("", "value", **LOOK)
    table.add_row("accuracy before, validation images", f"{100 * found['before']:.1f} %")
    table.add_row("error of the mean image", f"{found['mean_image']:.4f}")
    if found["accuracy_before"]:
        table.add_row("test accuracy before", interval(found["accuracy_before"], percent=True))
    table.add_row("test accuracy", interval(summary["accuracy"], percent=True))
    table.add_row("bytes on the wire, in float32", f"{summary['wire']['bytes']}")
    table.add_row("time", duration(summary["seconds"]))
    out_console.print()
    out_console.print(table)
