"""`splitveil demo`, `splitveil train` and `splitveil tail`."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from .. import config, progress_bars
from ..errors import UserError
from ..overrides import over
from ._shared import MaybePlace, Place, app, interval, out_console, say, show_flags

if TYPE_CHECKING:
    from ..data import ImageSet

FLAGS = config.flags()
FEW_STEPS = 300
"""Steps below which a training that has learned nothing probably was too short."""


@app.command
def demo(*, out: Place = Path("demo"), seed: int = 0) -> None:
    """Train four small models on digits, three noises alone and CEM; attack all; write OUT/report.html.

    Args:
        out: Folder of the report; an earlier demo in it is replaced.
        seed: Seed of all that is drawn.
    """
    from ..demo import run_demo

    with progress_bars.bars() as bar:
        page = run_demo(out, seed=seed, bar=bar)
    say(f"open {page.absolute()} in a browser")


@app.command
def train(
    *,
    out: Place,
    config_file: Annotated[MaybePlace, Parameter(name="--config")] = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    download: Annotated[bool, Parameter(negative="")] = False,
    tensorboard: Annotated[bool, Parameter(negative="")] = False,
    snapshots: int | None = None,
    flags: Annotated[FLAGS | None, Parameter(name="*")] = None,  # type: ignore[valid-type]
) -> None:
    """Train a split classifier with the settings of --config and, over them, of the flags.

    Where the flags name another recipe, other epochs or other images, a value of the file that is only the default of
    its own is replaced by the default of theirs.

    Args:
        out: Folder of the run.
        config_file: YAML file of settings, e.g. the config.yaml of another run.
        resume: Go on with the run in --out from its last epoch.
        download: Fetch the image set where it is published in one archive.
        tensorboard: Write the curves of OUT/metrics.jsonl for TensorBoard too, under OUT/tensorboard.
        snapshots: Keep the weights of every so many epochs, and of the last, in OUT/snapshots, for
            `splitveil diagnose`.
        flags: Settings of the training.
    """
    from .. import runs
    from ..data.protocol import protocol_sizes
    from ..storage.earlier_versions import settings_in
    from ..training.trainer import fit

    values = _of_one(config_file, settings_in(config_file)) if config_file else {}
    given = flags.model_dump(exclude_none=True) if flags else {}  # type: ignore[attr-defined]
    _check_root(given)
    settings = config.parse(over(values, given)).resolve()
    images = runs.load_images(settings, download=download)
    with progress_bars.bars() as bar:
        show = progress_bars.training(bar, "training", settings.epochs)
        more: dict[str, Any] = {"tensorboard": tensorboard, "snapshot_every": snapshots}
        summary = fit(settings, images, out, resume=resume, progress=show, **more)
    table = Table("", "value", title=escape(str(out)))
    accuracy = summary["accuracy"]
    table.add_row("test accuracy", interval(accuracy, percent=True) if accuracy else "not measured")
    found = protocol_sizes(settings.protocol, len(images.train), len(images.test))["defender_train"]
    if (used := summary["images"]["train"]) is not None and used < found:
        table.add_row("training images", f"{used:,}, without {found - used:,} copies of images that validate or test")
    chosen = "chosen epoch (on validation images)" if settings.choose == "best" else "served epoch (the last)"
    table.add_row(chosen, f"{summary['epoch'] + 1} of {settings.epochs}")
    if summary["leakage_nats"] is not None:
        table.add_row("leakage estimate", f"{summary['leakage_nats']:.0f} nats per image")
    table.add_row("wire", f"{tuple(summary['wire']['shape'])}, {summary['wire']['bytes']} bytes")
    table.add_row("parameters on the device", f"{summary['parameters']['encoder']:,}")
    table.add_row("seconds", f"{summary['seconds']:.0f}")
    out_console.print(table)
    show_flags(_flags(settings, images, summary))
    say(f"attack it: {shlex.join(['splitveil', 'attack', str(out), '--attack', 'decoder'])}")


@app.command
def tail(run: Place, *, root: MaybePlace = None) -> None:
    """Train the tail of a finished run anew on its frozen wire, and add the accuracy to RUN/summary.json.

    The accuracy as trained also says how far the training came; this accuracy says what the wire allows, by one short
    recipe for all defenses. The weights of the run stay as they are.

    Args:
        run: Run folder that `splitveil train` made.
        root: Folder of the images, where they have moved since the training.
    """
    from .. import runs
    from ..evaluation.tail import RECIPE, retrain

    opened = runs.Run.open(run)
    images = runs.load_images(opened.settings.model_copy(update={"root": root}) if root else opened.settings)
    with progress_bars.bars() as bar:
        summary = retrain(opened, images, progress=progress_bars.training(bar, "retraining the tail", RECIPE["epochs"]))
    known = summary["accuracy"]  # an imported checkpoint has none where its images were not at hand
    table = Table("", "value", title=escape(str(run)))
    table.add_row("test accuracy, as trained", interval(known, percent=True) if known else "not measured")
    table.add_row("test accuracy, tail retrained", interval(summary["retrained_accuracy"], percent=True))
    table.add_row("seconds", f"{summary['retraining']['seconds']:.0f}")
    out_console.print(table)


def _flags(settings: config.TrainConfig, images: ImageSet, summary: dict[str, Any]) -> list[str]:
    """Return why the network should not be used yet; where it took few steps, that is the likely reason."""
    from ..data.protocol import protocol
    from ..evaluation.reliability import at_chance
    from ..statistics.intervals import Interval

    known = summary["accuracy"]
    tested = protocol(settings.protocol, images, seed=settings.seed).utility_test
    flags = at_chance(Interval.from_dict(known) if known else None, tested.labels)
    count = summary["images"]["train"] or 0
    steps = settings.epochs * math.ceil(count / settings.batch_size)
    if flags and 0 < steps < FEW_STEPS:
        flags.append(
            f"the training was short: steps: {steps}, epochs: {settings.epochs}, each of {count:,} images, batch size: "
            f"{settings.batch_size}; choose a smaller --batch-size or more --epochs"
        )
    return flags


def _of_one(file: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a file, unless it holds those of several trainings."""
    from ..bench.grid_file import SEVERAL

    if SEVERAL & values.keys():
        raise UserError(
            f"{file} is a grid of several trainings; run it with: splitveil bench {shlex.quote(str(file))} --out DIR"
        )
    return values


def _check_root(given: dict[str, Any]) -> None:
    inside = config.divided(given.get("data", ""))[1]
    if inside and "root" in given:
        raise UserError(f"root is given twice: in '{given['data']}' and as {given['root']}; give it once")
