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
    from ..audit.cuts_picture import unlearned

    failed = unlearned(record)

    right = ("Mult-adds", "Weights", "Bytes", "Accuracy", "Linear", "Decoder", "Linkage", "Nats")
    name = Column("cut", overflow="fold")
    table = Table(name, *(Column(title, justify="right", no_wrap=True) for title in right), **LOOK)
    drop = record["terms"]["max_drop"]
    points = f"{drop:g} point{'' if drop == 1 else 's'}"
    table.title = f"{escape(record['network'])}, at most {points} of accuracy lost"
    for row in record["rows"]:
        mark = "*" if row["layer"] in record["front"] else "?" if row["layer"] in failed else ""
        cells = [_mean(row["accuracy"], ".1%"), *(_mean(row[name], ".4f") for name in ("linear", "decoder"))]
        linkage, leakage = (row[name] and row[name]["value"] for name in ("linkage", "leakage"))
        table.add_row(
            escape(row["layer"]) + mark,
            _short(row["multiply_adds"]),
            _short(row["parameters"]),
            f"{row['bytes']:,}",
            *cells,
            "-" if linkage is None else f"{linkage:.0%}",
            "-" if leakage is None else f"{leakage:,.0f}",
        )
    out_console.print(table)
    sizes = {row["linkage"]["gallery"] for row in record["rows"] if row["linkage"]}
    among = f" among {max(sizes):,} photos" if sizes else ""
    seconds = sum(row["seconds"] for row in record["rows"])
    if failed:
        say("? no attack is shown to beat the mean image there: its error says nothing")
    if record["front"]:
        say("* no other cut costs the device as little and leaves attackers as much error")
    say(f"linkage: how often the right photo is found{among}")
    say("nats: at most so much leaks, an upper bound on held-out images")
    say(f"error of always answering the mean image: {record['mean_image']:.4f}")
    say(f"accuracy without noise, on validation images: {record['before']:.1%}")
    say(f"time of the cuts: {duration(seconds)}")
    for row in record["rows"]:
        for what, why in row["skipped"].items():
            error_console.print(f"[yellow]not measured[/yellow] {escape(row['layer'])}, {what}: {escape(why)}")


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


def _mean(value: dict[str, Any] | None, form: str) -> str:
    return "-" if value is None else format(value["mean"], form)


def _short(count: int) -> str:
    """Return a number with three digits and a letter for its thousands.

    >>> _short(464), _short(39_370_752), _short(2_143_488)
    ('464', '39.4 M', '2.14 M')
    """
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {letter}"
    return str(count)
