"""The cuts of one network, side by side: what `splitveil audit NETWORK --layers` prints and leaves."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Column, Table

from .. import progress_bars
from ..errors import UserError
from ._shared import LOOK, duration, error_console, out_console, say, show_flags

if TYPE_CHECKING:
    from ..audit.cuts import Terms
    from ..data import ImageSet
    from ..runs import Run


EPOCHS = 4
"""Of the training of a network that is named."""


def show_cuts(
    network: str,
    layers: str,
    *,
    out: Path,
    data: str | None = None,
    root: Path | None = None,
    epochs: int | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    seed: int = 0,
    resume: bool = False,
    terms: Terms | None = None,
) -> None:
    """Measure the cuts of a network, print them as a table, and leave cuts.json and cuts.png in OUT.

    Args:
        network: a name of the zoo, which is trained first, into OUT/network; or the folder of a trained run.
        layers: "all", or names of layers with commas between them.
        out: folder of the record.
        data: image set; of a run its own.
        root: folder of the images.
        epochs: length of the first training; None: `EPOCHS`.
        train_size: use only this many training images in it.
        test_size: use only this many test images.
        seed: of the first training; of a run its own.
        resume: go on with an audit in OUT.
        terms: what is the same at every cut.
    """
    from ..audit import cuts

    cuts.check_folder(out, resume)
    with progress_bars.bars() as bar:
        if Path(network).is_dir():
            own = {"--data": data, "--train-size": train_size, "--test-size": test_size, "--epochs": epochs}
            run, images = _opened(Path(network), root, own | {"--seed": seed or None})  # 0 is what it is without
        else:
            first = EPOCHS if epochs is None else epochs
            run, images = _trained(network, layers, out, bar, resume, data=data, root=root, seed=seed, epochs=first,
                                   train_size=train_size, test_size=test_size)  # fmt: skip
        task = bar.add_task("cuts", total=None, note="")

        def show(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, note=what)

        record = cuts.audit(run, images, layers, out, terms or cuts.Terms(), resume=resume, show=show)
    _print(record)
    say(f"picture: {out / cuts.PICTURE}")
    say(f"with intervals: {out / cuts.FILE}")
    show_flags(record["flags"])
    say(f"then, with the cut that you choose: {_next(record)}, and splitveil harden and audit its run")


def _opened(folder: Path, root: Path | None, given: dict[str, Any]) -> tuple[Run, ImageSet]:
    from .. import runs

    run = runs.Run.open(folder)
    if named := [name for name, value in given.items() if value is not None]:
        raise UserError(f"{folder} is a run, which was trained already on its own images; leave {', '.join(named)} out")
    settings = run.settings.model_copy(update={"root": root}) if root else run.settings
    return run, runs.load_images(settings)


def _trained(
    network: str, layers: str, out: Path, bar: progress_bars.Bars, resume: bool, **given: Any
) -> tuple[Run, ImageSet]:
    from .. import config, runs
    from ..audit import cuts, undefended

    if given["data"] is None:
        raise UserError(
            f"{network} is no folder of a run, and a network by name is trained first; name its images with --data, "
            "such as cifar10"
        )
    plain = {name: given[name] for name in ("data", "root", "train_size", "test_size") if given[name] is not None}
    images = runs.load_images(config.parse(plain).resolve())
    settings = undefended.settings_of(network, images, **given)
    undefended.check(settings, images, layers)
    shown = progress_bars.training(bar, f"training {network}", settings.epochs)
    return undefended.trained(settings, images, out / cuts.TRAINED, resume=resume, progress=shown), images


def _print(record: dict[str, Any]) -> None:
    from ..audit import cuts_table

    name, *right = cuts_table.HEADS
    columns = (Column(one, justify="right", no_wrap=True) for one in right)
    table = Table(Column(name, overflow="fold"), *columns, title=escape(cuts_table.title(record)), **LOOK)
    for row in cuts_table.cells(record):
        table.add_row(*map(escape, row))
    out_console.print(table)
    for note in cuts_table.notes(record):
        say(note)
    say(f"time of the cuts: {duration(sum(row['seconds'] for row in record['rows']))}")
    for line in cuts_table.left_out(record):
        error_console.print(f"[yellow]not measured[/yellow] {escape(line)}")


def _next(record: dict[str, Any]) -> str:
    """Return the command that trains the network for the cut of the front that costs the device most."""
    about = record["settings"]
    layer = (record["front"] or record["cuts"])[-1]
    images = ["--data", about["data"]]
    if about["root"] and not about["data"].startswith("folder:"):
        images += ["--root", about["root"]]
    arch, _, named = about["arch"].partition("@")
    place = ["--arch", f"{arch}@{layer}"] if named else ["--arch", arch, "--cut", layer]
    return shlex.join(["splitveil", "train", "--recipe", "fast", *images, *place, "--out", f"runs/{layer}"])
