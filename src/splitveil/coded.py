"""A trained run whose wire is sent by a codec: a run folder of its own, so that attacks see what is really sent."""

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
from .memory import placed
from .model import SplitModel
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
    stage = Codec(coder.codec)  # type: ignore[arg-type]
    stage.set_grid(coder)
    plain = acting(model.defense)
    parts = list(model.defense) if isinstance(model.defense, Stack) else plain
    model.defense = Stack(*parts, stage)
    stage.install(model)
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
