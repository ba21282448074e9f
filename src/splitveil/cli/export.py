"""`splitveil export`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from .. import progress_bars
from ._shared import LOOK, MaybePlace, Place, app, out_console, say, show_flags

if TYPE_CHECKING:
    from ..data import ImageSet
    from ..deploy.export import Exported


@app.command
def export(
    run: Place,
    *,
    out: Place,
    codec: str = "auto",
    tail: str = "fp32",
    phone: Annotated[bool, Parameter(negative="")] = False,
    name: str | None = None,
    root: MaybePlace = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    allow_undefended: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Export a trained run as a bundle: a graph for the device, one for the cloud, checked against PyTorch.

    OUT/device is all that a device gets, OUT/cloud all that a server gets; OUT/triton and OUT/kserve.yaml are for those
    who run these servers.

    Args:
        run: Run folder that `splitveil train` or `splitveil harden` made.
        out: Folder of the bundle.
        codec: What crosses the wire: auto (uint4 where that is at most half as far off as the noise, else uint8),
            uint8, uint4, uint2, float16 or float32.
        tail: fp32, or int8: a quarter of the file, about a third of the time, and other answers to some images.
        phone: Make device/encoder.pte too, a program for Android and iOS; needs the package executorch.
        name: Name of the model at the server; that of the image set unless you give one.
        root: Folder of the images, where they have moved since the training.
        overwrite: Replace a bundle in --out.
        allow_undefended: Export a wire on which nothing is random.
    """
    from .. import runs
    from ..deploy import export as exporting

    opened = runs.Run.open(run)
    images = runs.load_images(opened.settings.model_copy(update={"root": root}) if root else opened.settings)
    options = exporting.Options(codec, tail, phone, name, overwrite, allow_undefended)
    with progress_bars.bars() as bar:
        task = bar.add_task("export", total=len(exporting.STEPS), note="")

        def show(done: int, step: str) -> None:
            bar.update(task, completed=done, note=step)

        found = exporting.export(opened, images, out, options, show)
    _print(found, run)
    say(f"serve it: {shlex.join(['splitveil', 'serve', str(out)])}")
    say(f"then ask it: {_question(out, images)}")


def _question(out: Path, images: ImageSet) -> str:
    """Return the command that asks the server which listens where it does by itself."""
    from PIL import Image

    from ..serving.settings import Settings

    asked = ["splitveil", "query", str(out / "device"), "IMAGE", "--url", Settings(str(out)).url(Settings.port)]
    if images.example is None:
        return f"{shlex.join(asked)}; there IMAGE is the file of a picture of {images.size} by {images.size} pixels"
    asked[3] = str(images.example)
    with Image.open(images.example) as picture:
        asked += ["--resize", "bilinear"] * (picture.size != (images.size, images.size))
    return shlex.join(asked)


def _print(found: Exported, run: Path) -> None:
    from ..statistics.intervals import Interval

    wire, compared = found.wire, found.compared
    coded, draws = wire["wire"], wire["draws"]
    error = coded["error_over_sigma"]
    table = Table("", "value", title=escape(f"{wire['name']}-{wire['pair']}"), title_justify="left", **LOOK)
    rows = [
        ("device: encoder.onnx", f"{found.sizes['encoder']:,} bytes"),
        ("cloud: tail.onnx", f"{found.sizes['tail']:,} bytes"),
        ("drawn on the device for an image", "; ".join(f"{d['kind']} {d['shape']}" for d in draws) or "nothing"),
        ("on the wire for an image", f"{coded['bits_per_image'] // 8:,} bytes ({coded['codec']})"),
        ("error of the codec", "there is no noise" if error is None else f"{error:.3g} deviations of the noise"),
        ("numbers that differ from PyTorch", f"{compared.codes_differ:.2g} of all"),
        (f"accuracy in PyTorch, {compared.images:,} images", f"{compared.accuracy_torch:.1%}"),
        ("accuracy of the bundle, same draws", f"{compared.accuracy_bundle:.1%}"),
        ("difference, points", f"{compared.difference.scaled(100):.2f}"),
    ]
    if compared.int8:
        rows.append(("int8 tail: same answers as in float32", f"{compared.int8.agreement:.1%}"))
        rows.append(("its accuracy − that in float32, points", f"{compared.int8.difference.scaled(100):.2f}"))
    if "linear_mse" in wire["measured"]:
        leak = wire["measured"]["linear_mse"]
        told = {name: Interval.from_dict(leak[name]) for name in ("float32", "coded", "difference")}
        rows.append((f"linear attack, {leak['images']:,} images: MSE before the codec", str(told["float32"])))
        rows.append(("its MSE on what is sent", f"{told['coded']}, {told['difference'].mean:+.2g}"))
    for row in rows:
        table.add_row(*map(escape, row))
    out_console.print(table)
    say(f"bundle: {found.out}")
    if wire["audit"] is None:
        audit = shlex.join(["splitveil", "audit", str(run), "--codec", coded["codec"]])
        say(f"not audited: run `{audit}` and export again; the card is then in it")
    else:
        say(f"audit of what is sent: {wire['audit']['verdict']}")
    flags = []
    if compared.int8 and compared.int8.difference.hi < 0:
        flags.append("the int8 tail costs accuracy: choose --tail fp32")
    elif compared.difference.hi < 0:
        tail = " with the int8 tail" if compared.int8 else ""
        flags.append(f"the codec {coded['codec']}{tail} costs accuracy: choose one of more bits with --codec")
    if not draws:
        flags.append("nothing on this wire is random: whoever reads it may rebuild the image")
    show_flags(flags)
