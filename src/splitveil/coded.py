"""Trained models and runs whose wire is sent by a codec, so that attacks see what is really sent."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import config
from .data import ImageSet, Split, protocol, to_float
from .defenses._codec import CODECS, Coder
from .defenses._codec_choice import choose
from .defenses._correlated import acting
from .defenses.base import Stack
from .defenses.codec import Codec, codec_of, sent_by
from .errors import UserError
from .given import Data, check_images, check_model, images_of
from .memory import placed
from .model import SplitModel, digest_of, listed
from .nn.copies import copy_of
from .randomness import stream
from .recipe import TEST
from .results import records
from .runs import SERVED, Run, environment, save_weights, write_summary
from .statistics.intervals import binomial_ci, paired_hits
from .storage.claims import claimed
from .storage.files import is_lost, remove_file, write_text
from .training import pins
from .training.trainer import predict

FOLDER = "coded"
GRID_IMAGES, NOISE_IMAGES = 10_000, 512
"""Most training images that the grid is found on; images that the noise is measured on."""
MOST_VALUES = 2**24
"""Most values that a grid is found on."""
BATCH = 100
Send = Callable[[Tensor, torch.Generator], Tensor]


def with_codec(model: SplitModel, codec: str = "auto", *, train: Data) -> SplitModel:
    """Return a copy of a trained model whose wire is sent by a codec, as the bundle of `splitveil.export` sends it.

    The codec is the last defense of the copy, behind the noise, and its grid is among the copy's weights: attacks,
    accuracy, bounds, a privacy card and an export of the copy are about the bytes that are sent.

    Args:
        model: trained, with its defenses; it stays as it is.
        codec: auto (uint4 where that is at most half as far off as the noise, else uint8), uint8, uint4, uint2,
            float16 or float32.
        train: images that the model has learned from; the grid of each channel is found on the noisy wires of at most
            10,000 of them, and never on images under attack.

    Returns:
        The copy, on the CPU and in evaluation mode. Its ``bytes_sent`` are those of the codec.

    Raises:
        UserError: an unknown codec, images that do not fit, or a wire that another codec sends already.

    >>> network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    >>> x, y = torch.rand(40, 3, 12, 12), torch.arange(40) % 2
    >>> model = SplitModel.cut(network, "0", x[:1])
    >>> coded = with_codec(model, "uint4", train=(x, y))
    >>> model.bytes_sent, coded.bytes_sent, list(coded.defense)
    (288, 36, [Codec(name='uint4')])
    """
    check_model(model)
    if codec not in CODECS:
        raise UserError(f"codec {codec!r:.40}; expected one of: {', '.join(CODECS)}")
    images = images_of(train, "train")
    check_images(model, images, "train")
    made = copy_of(model).cpu().eval()
    if (own := codec_of(made.defense)) is not None:
        if codec in ("auto", own.name):
            return made
        raise UserError(
            f"codec {codec}, but the wire of the model is sent by {own.name} already; give the one without it"
        )
    with torch.inference_mode(False):
        coder, _ = choose(codec, *sample(send_of(made), images, 0))
        return put_on(made, coder)


def as_sent(model: SplitModel, codec: str | None, train: Data | None) -> SplitModel:
    """Return the model whose wire is under attack: as it is, or behind a codec where one is named.

    Args:
        model: trained, with its defenses.
        codec: as of `with_codec`; None: the wire before any codec.
        train: as of `with_codec`.

    Raises:
        UserError: one of the two without the other, or as `with_codec`.
    """
    check_model(model)
    if codec is None and train is None:
        return model
    if codec is None:
        raise UserError("train says nothing without codec; leave it out, or name what a device sends, as codec='uint8'")
    if train is None:
        raise UserError(f"codec {codec!r:.40} needs the images on which its grid is found: train=(x_train, y_train)")
    return with_codec(model, codec, train=train)


def sent_alike(other: SplitModel, sent: SplitModel, train: Data | None) -> SplitModel:
    """Return a model that another one is compared with, sent by the codec of that one where it has none of its own.

    Args:
        other: to compare with, such as the undefended model.
        sent: that is under attack, as `as_sent` returns it.
        train: as of `with_codec`; None: nothing was put behind a codec, and the other model stays as it is.

    Returns:
        The other model as it is where it has a codec, and where it is the one under attack before its codec: what is
        compared is then the codec itself.
    """
    coder = codec_of(sent.defense)
    if train is None or coder is None or codec_of(other.defense) is not None:
        return other
    behind = copy_of(other).cpu()
    behind.defense = Stack(*listed(behind.defense), coder)
    if digest_of(behind) == digest_of(sent):
        return other
    return with_codec(other, coder.name, train=train)


def put_on(model: SplitModel, coder: Coder) -> SplitModel:
    """Put a codec behind the defenses of a model, in place, and return the model.

    Args:
        model: trained, without a codec.
        coder: with its grid.
    """
    stage = Codec(coder.codec)  # type: ignore[arg-type]
    stage.set_grid(coder)
    model.defense = Stack(*listed(model.defense), stage)
    stage.install(model)
    return model


def coded_run(run: Run, images: ImageSet, codec: str, place: Path | None = None) -> Run:
    """Return a run whose wire is sent by a codec, made in ``RUN/coded/CODEC`` unless it is there.

    Network and noise are those of the run, the grid is the one that `splitveil export` finds. It is measured on the
    test images and attacked, audited and compared like any run.

    Args:
        run: trained model in its folder.
        images: image set of the run.
        codec: auto, uint8, uint4, uint2, float16 or float32.
        place: folder in which it is made instead; nothing is then written into the run's.

    Raises:
        UserError: an unknown codec, a wire that has one already, or images of another run.
    """
    if codec not in CODECS:
        raise UserError(f"codec {codec!r:.40}; expected one of: {', '.join(CODECS)}")
    pins.check(run.summary, images, run.path)
    model = run.model(images)
    if (own := codec_of(model.defense)) is not None:
        if codec in ("auto", own.name):
            return run
        raise UserError(
            f"codec {codec}, but the wire of {run.path} is sent by {own.name} already; name the run it is of"
        )
    given = protocol(run.settings.protocol, images, seed=run.settings.seed)
    made = _ready(run, codec)
    if made is not None:
        return made
    sent, sigma = sample(send_of(model), given.defender_train, 0)
    coder, error = choose(codec, sent, sigma)
    made = _ready(run, coder.codec)
    if made is not None:
        return made
    folder = (place or run.path / FOLDER) / coder.codec
    with claimed(folder, "coding"):
        if place is not None or _ready(run, coder.codec) is None:
            _write(run, folder, model, given.utility_test, images, coder, error)
    return Run.open(folder)


def coded_alike(other: Run, run: Run, images: ImageSet) -> Run:
    """Return a run that another one is compared with, sent by the codec of that one where it has none of its own.

    Args:
        other: to compare with, such as the undefended one.
        run: that is under attack, which may be a coded one.
        images: image set of both.

    Returns:
        The coded run in ``OTHER/coded/CODEC``; the other run as it is where neither or both are coded, or where it is
        the very run that was put behind the codec: what is compared is then the codec itself.
    """
    coding = run.summary.get("coding")
    if coding is None or "coding" in other.summary or coding["weights"] == other.digest():
        return other
    return coded_run(other, images, coding["codec"])


def send_of(model: SplitModel) -> Send:
    """Return what computes the numbers that are sent, before any codec, for pixels and a generator.

    Args:
        model: with its defense.
    """
    parts = acting(model.defense)
    return lambda x, rng: sent_by(parts, model.features(x), rng)


@torch.no_grad()
def sample(send: Send, train: Split, seed: int) -> tuple[Tensor, float]:
    """Return what is sent for training images, (N, ...), and the standard deviation of its noise.

    The deviation is that between two looks at the same image, over √2.

    Args:
        send: pixels (B, C, H, W) and a generator -> what is sent.
        train: training images.
        seed: of their choice and their noise.
    """
    few = to_float(train.images[:2])
    numbers = send(few, stream("cpu", seed, 0))[0].numel()
    count = max(3, min(GRID_IMAGES, MOST_VALUES // numbers))
    chosen = train.images[torch.randperm(len(train), generator=stream("cpu", seed, 0))[:count]]
    rng = stream("cpu", seed, 1)
    sent = torch.cat([send(to_float(part), rng).float() for part in chosen.split(BATCH)])
    again = torch.cat([send(to_float(part), rng).float() for part in chosen[:NOISE_IMAGES].split(BATCH)])
    return sent, float(((sent[: len(again)] - again).square().mean() / 2).sqrt())


def _ready(run: Run, codec: str) -> Run | None:
    """Return the coded run of these weights that is there, with all of its files."""
    folder = run.path / FOLDER / codec
    if codec == "auto" or any(is_lost(folder / name) for name in (SERVED, "config.yaml", "test.csv", "summary.json")):
        return None
    found = Run.open(folder)
    return found if found.summary.get("coding", {}).get("weights") == run.digest() else None


def _write(
    run: Run, folder: Path, model: SplitModel, test: Split, images: ImageSet, coder: Coder, error: float | None
) -> None:
    remove_file(folder / "summary.json")  # of other weights
    put_on(model, coder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    placed(model, device)
    predicted = predict(model, test.images, stream(device, run.settings.seed, TEST, 0, 0)).cpu()
    save_weights(model, folder / "model.safetensors")
    rows = enumerate(zip(test.labels.tolist(), predicted.tolist(), strict=True))
    lines = [f"{image},{label},{answer}\n" for image, (label, answer) in rows]
    write_text(folder / "test.csv", "image,label,predicted\n" + "".join(lines))
    specs = (*run.settings.defense, config.Spec(name="codec", parameters={"name": coder.codec}).resolve("defenses"))
    settings = run.settings.model_copy(update={"defense": specs})
    write_text(folder / "config.yaml", config.dump(settings, coded_from=os.path.relpath(run.path, folder)))
    right = predicted == test.labels.cpu()
    write_summary(folder, _summary(run, model, right, coder, error))  # last: it marks the run as finished


def _summary(run: Run, model: SplitModel, right: Tensor, coder: Coder, error: float | None) -> dict[str, Any]:
    try:
        difference = paired_hits(right, records.answers(run.path)).as_dict()
    except UserError:  # imported runs have no answers
        difference = None
    kept = {name: value for name, value in run.summary.items() if not name.startswith("retrain")}
    return kept | {
        "accuracy": binomial_ci(int(right.sum()), len(right)).as_dict(),
        "wire": {"shape": list(model.wire_shape), "bytes": model.bytes_sent},
        "environment": environment(),
        "coding": {
            "of": str(run.path),
            "weights": run.digest(),
            "codec": coder.codec,
            "error_over_sigma": error,
            "accuracy_before": run.summary["accuracy"],
            "accuracy_difference": difference,
        },
    }
