"""`splitveil.export`: a split model that was made in Python, as a bundle for device and server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .. import progress_bars
from ..errors import UserError
from ..given import Data, check_images, check_model, images_of, outputs_of
from ..model import SplitModel
from ..nn.copies import copy_of
from . import bundle, quantized
from .export import CODECS, STEPS, Exported, Options, about, convert, written
from .graphs import check_packages


def export(
    model: SplitModel,
    out: str | Path,
    *,
    train: Data,
    test: Data,
    classes: Sequence[str] | None = None,
    name: str = "model",
    codec: str = "auto",
    tail: str = "fp32",
    overwrite: bool = False,
    allow_undefended: bool = False,
    seed: int = 0,
) -> Exported:
    """Write a split model as a bundle: ONNX, one file for the device and one for the cloud, as `splitveil export` does.

    The model stays as it is. The bundle holds no privacy card: a card from Python is about the wire before the codec.

    Args:
        model: trained, with its defenses.
        out: folder of the bundle.
        train: images on whose wires the grid of the codec is found.
        test: images on which the bundle is held against PyTorch.
        classes: names of the classes, in the order of the logits; None: "0", "1", ...
        name: of the model at the server, in small letters, digits and "-_.".
        codec: auto (uint4 where that is at most half as far off as the noise, else uint8), uint8, uint4, uint2,
            float16 or float32.
        tail: fp32, or int8 for a quarter of the size.
        overwrite: replace a bundle that is there.
        allow_undefended: export a wire on which nothing is random.
        seed: of the draws with which the grid is found and the bundle is verified; a device draws its own.

    Returns:
        The bundle that was written: its folder, the content of wire.json, sizes and what was compared.

    Raises:
        UserError: a package is missing, something is in the way, images or classes that do not fit, a model that cannot
            be exported, or files that do not agree with PyTorch. Nothing is then written.
    """
    check_model(model)
    check_packages()
    bundle.check_place(out, overwrite)
    options = Options(codec, tail, False, bundle.check_name(name), overwrite, allow_undefended, seed)
    if codec not in CODECS:
        raise UserError(f"codec {codec!r:.40}; expected one of: {', '.join(CODECS)}")
    quantized.check_tail(tail)
    found, scored = images_of(train, "train"), images_of(test, "test")
    check_images(model, found, "train")
    check_images(model, scored, "test")
    names = _names(classes, outputs_of(model, scored, "test"))
    with progress_bars.bars() as bar:
        task = bar.add_task("export", total=len(STEPS), note="")

        def show(done: int, step: str) -> None:
            bar.update(task, completed=done, note=step)

        made = convert(copy_of(model).cpu().eval(), found, scored, options, show)
        size = *scored.images.shape[2:], scored.images.shape[1]
        said = {**about(name, size, names, made, None), "audit": None}
        return written(out, said, made, {}, overwrite, show)


def _names(classes: Sequence[str] | None, outputs: int) -> list[str]:
    """Return a name for each output of the network."""
    names = [str(number) for number in range(outputs)] if classes is None else [str(one) for one in classes]
    if len(names) != outputs:
        raise UserError(f"classes has {len(names)} names, the network has {outputs} outputs; name each of them once")
    return names
