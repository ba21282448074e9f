"""`splitveil diagnose`."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from .. import config, progress_bars
from ._shared import LOOK, MaybePlace, Place, app, interval, out_console, say, show_flags

MEASURES = {"leakage_nats": "the estimate logged by the training", "bound": "the held-out upper bound"}


@app.command
def diagnose(
    run: Place,
    *,
    out: Place,
    attack: str = "linear",
    protocol: str | None = None,
    attacker_size: int | None = None,
    attacked: int | None = None,
    seed: int = 0,
    root: MaybePlace = None,
) -> None:
    """Hold the leakage that a training logged in each epoch against an attack on the weights of that epoch.

    The training must have kept them (`splitveil train --snapshots`). OUT gets diagnosis.json and diagnosis.png; a
    diagnosis that was stopped goes on when the command is given again.

    Args:
        run: Run folder that `splitveil train` made.
        out: Folder of the diagnosis.
        attack: Attack, name:value or name:key=value,...
        protocol: train_time, inference_time or auxiliary; by default that of the run's training.
        attacker_size: Let the attacker train on only this many images.
        attacked: Reconstruct only this many images.
        seed: Seed of the attack.
        root: Folder of the images, where they have moved since the training.
    """
    from .. import runs
    from ..audit import diagnosis
    from ..evaluation.stage import ThreatModel

    opened = runs.Run.open(run)
    spec = config.spec_of(attack, "attacks")
    images = runs.load_images(opened.settings.model_copy(update={"root": root}) if root else opened.settings)
    terms = ThreatModel(protocol or opened.settings.protocol, attacker_size, attacked, seed)
    with progress_bars.bars() as bar:
        task = bar.add_task("epochs", total=None, note="")

        def show(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)

        record = diagnosis.diagnose(opened, images, out, spec, terms, show=show)
    _print(record, str(run))
    say(f"picture: {out / diagnosis.PICTURE}")
    show_flags(dict.fromkeys(flag for row in record["epochs"] for flag in row["flags"]))


def _print(record: dict[str, Any], title: str) -> None:
    from ..statistics.intervals import Interval

    name, about = next(iter(record["identity"]["attack"])), record["identity"]
    table = Table("epoch", "logged nats", "held-out nats", "val. %", f"MSE of {name}", title=escape(title), **LOOK)
    for row in record["epochs"]:
        table.add_row(
            f"{row['epoch']}",
            f"{row['leakage_nats']:.1f}",
            escape(f"{Interval.from_dict(row['bound']):.0f}") if "bound" in row else "",
            f"{100 * row['accuracy_val']:.1f}",
            interval(row["mse"]),
        )
    table.add_row("mean image", "", "", "", f"{record['baseline_mse']:.4g}")
    counts = about["images"]
    table.caption = f"{about['protocol']}: {counts['attacked']} images attacked, {counts['attacker']} to learn from"
    out_console.print(table)
    for reason in dict.fromkeys(row["without_bound"] for row in record["epochs"] if "without_bound" in row):
        say(f"no held-out bound: {reason}")
    say(f"Spearman's rank correlation with the MSE over {len(record['epochs'])} epochs:")
    for key, found in record["correlation"].items():
        say(f"  {MEASURES[key]}: {Interval.from_dict(found):.2f}")
    say("These are epochs of one training, which follow from one another: nothing is said of other trainings.")
