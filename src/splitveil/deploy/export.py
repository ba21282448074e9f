"""A trained run as a bundle: draws become inputs, a grid is found, both graphs are exported, verified and written."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..coded import sample
from ..data import ImageSet, Split, to_float
from ..defenses._codec import CODECS, Coder
from ..defenses._codec_choice import choose, error_of
from ..defenses.codec import codec_of
from ..errors import UserError
from ..evaluation.stage import parts
from ..model import SplitModel
from ..randomness import stream
from ..runs import Run
from ..storage.reading import finite
from ..training import pins
from . import bundle, manifests, phone, quantized
from .audited import audit_of
from .draws import Draw
from .graphs import CloudGraph, DeviceGraph, Session, check_packages, cloud_bytes, device_bytes
from .halves import Receiver, Sender
from .leak import Leak, leak_of
from .verify import Comparison, Pair, as_input, compare

SCORED = 2_000
"""Most test images that are scored."""
STEPS = ("draws", "codec", "device", "cloud", "verification", "attack", "writing")
DTYPES = {"float16": "FP16", "float32": "FP32"}
Show = Callable[[int, str], None]


@dataclass(frozen=True)
class Options:
    """What is exported, and how.

    Attributes:
        codec: one of `defenses._codec.CODECS`.
        tail: one of `quantized.TAILS`.
        phone: make the device's graph a program of ExecuTorch too.
        name: of the model at the server; None: that of the image set.
        overwrite: replace a bundle that is there.
        undefended: export a wire on which nothing is random.
        seed: of the draws with which the grid is found and the bundle is verified; a device draws its own.
    """

    codec: str = "auto"
    tail: str = "fp32"
    phone: bool = False
    name: str | None = None
    overwrite: bool = False
    undefended: bool = False
    seed: int = 0


@dataclass(frozen=True, repr=False)
class Exported:
    """A bundle that was written.

    Attributes:
        out: its folder.
        wire: content of wire.json.
        sizes: bytes of the two ONNX files.
        compared: bundle and PyTorch on test images.
    """

    out: Path
    wire: bundle.Wire
    sizes: dict[str, int]
    compared: Comparison

    def __repr__(self) -> str:
        wire, audit = self.wire["wire"], self.wire["audit"]
        card = "no privacy card" if audit is None else f"privacy card: {audit['verdict']}"
        name, size = f"{self.wire['name']}-{self.wire['pair']}", f"{wire['bits_per_image'] // 8:,} bytes"
        sent = f"{size} for each image by {wire['codec']}, accuracy {self.compared.accuracy_bundle:.1%}"
        return f"Exported({str(self.out)!r}: {name}, {sent}, {card})"


def export(
    run: Run, images: ImageSet, out: str | Path, options: Options | None = None, show: Show | None = None
) -> Exported:
    """Write a trained run as a bundle.

    Args:
        run: finished run.
        images: image set of the run.
        out: folder of the bundle.
        options: what is exported, and how.
        show: called with the number of each step and its name, see `STEPS`.

    Raises:
        UserError: a package is missing, something is in the way, the run cannot be exported, or the ONNX files do not
            agree with PyTorch. Nothing is then written.
    """
    options = options or Options()
    check_packages()
    bundle.check_place(out, options.overwrite)
    name = bundle.check_name(options.name or _plain(images.name))
    if options.codec not in CODECS:
        raise UserError(f"codec {options.codec!r:.40}; expected one of: {', '.join(CODECS)}")
    quantized.check_tail(options.tail)
    if options.phone:
        phone.check_package()
    pins.check(run.summary, images, run.path)  # the bundle names their classes, and its grid is found on them
    told = show or (lambda number, step: None)
    given = parts(run.settings, images, run.settings.protocol, None, None)
    model = run.model(images)
    made = convert(model, given.defender_train, given.utility_test, options, told)
    told(5, STEPS[5])
    leak = leak_of(model, made.coder, given, options.seed)
    audit, more = audit_of(run, made.coder.codec)
    channels, height, width = images.test.images.shape[1:]
    told_of = {**about(name, (height, width, channels), images.classes, made, leak), "audit": audit}
    if leak is not None:
        more[bundle.PICTURE] = leak.graph
    return written(out, told_of, made, more, options.overwrite, told)


def written(
    out: str | Path,
    said: dict[str, Any],
    made: Converted,
    more: dict[str, bytes | str],
    overwrite: bool,
    told: Show,
) -> Exported:
    """Write what was converted as a bundle.

    Args:
        out: its folder.
        said: content of wire.json without the pair.
        made: both files.
        more: further files by their path in the bundle.
        overwrite: replace a bundle that is there.
        told: as ``show`` of `export`.

    Raises:
        UserError: the folder cannot be written; what was there stays.
    """
    encoder, tail = made.encoder, made.tail
    wire = cast("bundle.Wire", {**said, "pair": bundle.pair_of(encoder, tail, said)})
    told(6, STEPS[6])
    place = f"triton/{wire['name']}-{wire['pair']}"
    more = more | {
        f"{place}/config.pbtxt": manifests.triton_config(wire),
        f"{place}/1/model.onnx": tail,
        "kserve.yaml": manifests.kserve_manifest(wire),
    }
    if made.phone is not None:
        more[phone.FILE] = made.phone
    # Again: something may have been put there since the export began.
    bundle.write(out, encoder, tail, wire, more, functools.partial(bundle.check_place, out, overwrite))
    told(7, "")
    return Exported(Path(out), wire, {"encoder": len(encoder), "tail": len(tail)}, made.compared)


@dataclass(frozen=True)
class Converted:
    """A model as two ONNX files that agree with it.

    Attributes:
        encoder, tail: contents of the files.
        draws: inputs of the encoder.
        coder: of the wire.
        error: of the coder, in deviations of the noise; None where there is none.
        compared: files and model on test images.
        phone: the device's graph as a program of ExecuTorch; None: it was not asked for.
    """

    encoder: bytes
    tail: bytes
    draws: list[Draw]
    coder: Coder
    error: float | None
    compared: Comparison
    phone: bytes | None = None


def convert(model: SplitModel, train: Split, test: Split, options: Options, show: Show) -> Converted:
    """Return a model as two ONNX files, after holding them against it.

    Args:
        model: trained, in evaluation mode, on the CPU.
        train: training images, on which the grid is found.
        test: test images, on which both are compared.
        options: what is exported, and how.
        show: as of `export`.

    Raises:
        UserError: as `export`.
    """
    tensors = {key: value for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    if bad := finite({key: value for key, value in tensors.items() if value.is_floating_point()}):
        raise UserError(f"{bad} holds NaN or infinity; train the run again")
    model.requires_grad_(False)
    show(0, STEPS[0])
    send, receive = Sender(model), Receiver(model)
    draws = send.draws(to_float(train.images[:3]))
    if not draws and not options.undefended:
        raise UserError(
            "nothing on this wire is random, so that it hides little; add --allow-undefended (from Python "
            "allow_undefended=True) to export it"
        )
    show(1, STEPS[1])
    sent, sigma = sample(send, train, options.seed)
    coder, error = _coder(model, options.codec, sent, sigma)
    device, cloud = DeviceGraph(send, draws, coder), CloudGraph(receive, coder)
    show(2, STEPS[2])
    encoder = device_bytes(device, as_input(train.images[:3]), draws)
    show(3, STEPS[3])
    tail = cloud_bytes(cloud, coder.encode(sent[:3]))
    wires = coder.encode(sent[: quantized.IMAGES])
    small = quantized.int8(tail, wires) if options.tail == "int8" else None
    served = None if small is None else Session(small)
    show(4, STEPS[4])
    pair = Pair(device, cloud, Session(encoder), Session(tail), draws, served, len(wires))
    chosen = torch.randperm(len(test), generator=stream("cpu", options.seed, 2))[:SCORED]
    compared = compare(pair, test.subset(chosen), stream("cpu", options.seed, 3))
    program = phone.phone_bytes(device, draws, test.subset(chosen), options.seed) if options.phone else None
    return Converted(encoder, small or tail, draws, coder, error, compared, program)


def _coder(model: SplitModel, name: str, sent: Tensor, sigma: float) -> tuple[Coder, float | None]:
    """Return the coder of the wire, and its error in deviations of the noise; a coded run has its own."""
    own = codec_of(model.defense)
    if own is None:
        return choose(name, sent, sigma)
    if name not in ("auto", own.name):
        raise UserError(f"codec {name}, but the wire of this run is sent by {own.name} already; export the run itself")
    coder = own.coder(tuple(sent.shape[1:]))
    return coder, error_of(coder, sent, sigma)


def about(
    name: str, shape: Sequence[int], classes: Sequence[str], made: Converted, leak: Leak | None
) -> dict[str, Any]:
    """Return wire.json without its pair and its audit.

    Args:
        name: of the model at the server.
        shape: (H, W, C) of an image.
        classes: names of the classes, in the order of the logits.
        made: both files.
        leak: of the wire to a linear attack.
    """
    compared, coder = made.compared, made.coder
    draws = [
        {"name": draw.name, "kind": draw.kind, "shape": list(draw.shape)}
        | ({} if draw.high is None else {"high": draw.high})
        for draw in made.draws
    ]
    return {
        "splitveil": bundle.SCHEMA,
        "name": name,
        "image": {"dtype": "UINT8", "shape": list(shape)},
        "draws": draws,
        "wire": {
            "dtype": DTYPES.get(coder.codec, "UINT8"),
            "shape": [coder.length],
            "codec": coder.codec,
            "bits_per_image": coder.bits,
            "error_over_sigma": made.error,
        },
        "outputs": [{"name": "logits", "dtype": "FP32", "shape": [len(classes)]}],
        "classes": list(classes),
        "measured": {
            "images": compared.images,
            "accuracy_torch": compared.accuracy_torch.as_dict(),
            "accuracy_bundle": compared.accuracy_bundle.as_dict(),
            "difference": compared.difference.as_dict(),
            "codes_differ": compared.codes_differ,
            **({} if leak is None else {"linear_mse": leak.as_dict()}),
            **({} if compared.int8 is None else {"int8_tail": compared.int8.as_dict()}),
        },
    }


def _plain(name: str) -> str:
    """Return the name of an image set without what only a command line needs.

    >>> _plain("folder:/home/me/Faces")
    'folder'
    """
    kept = "".join(letter if letter in bundle.LETTERS else "-" for letter in name.partition(":")[0].lower())
    return kept.strip("-_.")[:64] or "model"
