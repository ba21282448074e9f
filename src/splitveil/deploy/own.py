"""`splitveil.export`: a split model that was made in Python, as a bundle for device and server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import progress_bars
from ..coded import with_codec
from ..data import Split
from ..errors import UserError
from ..given import Data, check_images, check_model, images_of, outputs_of
from ..model import SplitModel
from ..nn.copies import copy_of
from . import audited, bundle, quantized
from .export import CODECS, STEPS, Exported, Options, about, convert, written
from .graphs import check_packages

if TYPE_CHECKING:
    from ..audit.own import PrivacyCard


def export(
    model: SplitModel,
    out: str | Path,
    *,
    train: Data,
    test: Data,
    classes: Sequence[str] | None = None,
    name: str = "model",
    codec: str = "auto",
    card: PrivacyCard | str | Path | None = None,
    tail: str = "fp32",
    overwrite: bool = False,
    allow_undefended: bool = False,
    seed: int = 0,
) -> Exported:
    """Write a split model as a bundle: ONNX, one file for the device and one for the cloud, as `splitveil export` does.

    Args:
        model: trained, with its defenses; it stays as it is.
        out: folder of the bundle.
        train: images on whose wires the grid of the codec is found.
        test: images on which the bundle is held against PyTorch.
        classes: names of the classes, in the order of the logits; None: "0", "1", ...
        name: of the model at the server, in small letters, digits and "-_.".
        codec: auto (uint4 where that is at most half as far off as the noise, else uint8), uint8, uint4, uint2,
            float16 or float32.
        card: privacy card of this model, with the same ``codec`` and ``train``, or the folder where it was saved: the
            bundle holds it. None: it holds none.
        tail: fp32, or int8 for a quarter of the size.
        overwrite: replace a bundle that is there.
        allow_undefended: export a wire on which nothing is random.
        seed: of the draws with which the grid is found and the bundle is verified (a card's grid is that of seed 0).

    Returns:
        The bundle that was written: its folder, the content of wire.json, sizes and what was compared.

    Raises:
        UserError: a package is missing, something is in the way, images or classes that do not fit, a card of another
            wire, a model that cannot be exported, or files that do not agree with PyTorch. Nothing is then written.
    """
    check_model(model)
    check_packages()
    bundle.check_place(out, overwrite)
    options = Options(codec, tail, False, bundle.check_name(name), overwrite, allow_undefended, seed)
    if codec not in CODECS:
        raise UserError(f"codec {codec!r:.40}; expected one of: {', '.join(CODECS)}")
    quantized.check_tail(tail)
    found, scored = _fitting(model, train, "train"), _fitting(model, test, "test")
    names = _names(classes, outputs_of(model, scored, "test"))
    exported, audit, more = _carded(model, card, codec, found)
    with progress_bars.bars() as bar:
        task = bar.add_task("export", total=len(STEPS), note="")

        def show(done: int, step: str) -> None:
            bar.update(task, completed=done, note=step)

        made = convert(exported, found, scored, options, show)
        said = about(name, (*scored.images.shape[2:], scored.images.shape[1]), names, made, None) | {"audit": audit}
        return written(out, said, made, more, overwrite, show)


def _fitting(model: SplitModel, data: Data, name: str) -> Split:
    """Return images that have the size that the model was made for."""
    found = images_of(data, name)
    check_images(model, found, name)
    return found


def _carded(
    model: SplitModel, card: PrivacyCard | str | Path | None, codec: str, train: Split
) -> tuple[SplitModel, dict[str, Any] | None, dict[str, bytes | str]]:
    """Return a copy of the model to be exported, and what the bundle says and holds of the card."""
    if card is None:
        return copy_of(model).cpu().eval(), None, {}
    record, page = audited.given(card)
    coded = with_codec(model, codec, train=train)  # the card tells its grid, which is compared before anything is made
    return coded, audited.checked(record, model, coded), audited.files(record, page)


def _names(classes: Sequence[str] | None, outputs: int) -> list[str]:
    """Return a name for each output of the network."""
    names = [str(number) for number in range(outputs)] if classes is None else [str(one) for one in classes]
    if len(names) != outputs:
        raise UserError(f"classes has {len(names)} names, the network has {outputs} outputs; name each of them once")
    return names
