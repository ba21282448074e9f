"""Files that a finished training has lost, and how they are made again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import config
from ..data import ImageSet, protocol
from ..errors import UserError
from ..memory import placed
from ..nn import fastconv
from ..randomness import stream
from ..recipe import TEST
from ..runs import SERVED, Run
from ..storage import reading
from ..storage.files import is_lost, write_text
from .checkpoints import REMEDY, State

AGAIN = "again"
"""Folder within a run in which its training is repeated."""
CURVE, ANSWERS, RETRAINED = "metrics.jsonl", *reading.ANSWERS.values()


def lost(run: Path, summary: Mapping[str, Any]) -> list[str]:
    """Return the names of files that a finished training has left and that are gone or empty.

    What was imported, or made of another run, never had them all, and nothing is missed there. Nor are answers to the
    test images missed where a training is older than they are.

    Args:
        run: run folder.
        summary: what its summary.json holds.

    >>> lost(Path("runs/none"), {"epoch": 3, "test_digest": "1f"}), lost(Path("runs/none"), {"epoch": None})
    (['model.safetensors', 'metrics.jsonl', 'test.csv'], [])
    """
    if summary["epoch"] is None or {"hardening", "coding"} & summary.keys():
        return []
    needed = [SERVED, CURVE, *([ANSWERS] if "test_digest" in summary else [])]
    return [name for name in needed if is_lost(run / name)]


def lost_answers(run: Path, summary: Mapping[str, Any]) -> bool:
    """Return whether the answers of a tail that was retrained are gone or empty; `tail.retrain` makes them again.

    Args:
        run: run folder.
        summary: what its summary.json holds.
    """
    return summary.get("retrained_accuracy") is not None and is_lost(run / RETRAINED)


def make_again(
    run: Path,
    settings: config.TrainConfig,
    images: ImageSet,
    summary: Mapping[str, Any],
    repeat: Callable[[Path], Mapping[str, Any]],
) -> None:
    """Make the files again that a finished training has lost; its summary stays as it is.

    The curve is read from the checkpoint, and answers are those of the weights. Without these the training is repeated
    in a folder of its own, from which files are taken only if it came to the same weights.

    Args:
        run: run folder.
        settings: of the training.
        images: image set of the training.
        summary: what summary.json holds.
        repeat: trains in a folder, or goes on with what was begun there, and returns the summary.

    Raises:
        UserError: they cannot be made again to the same result.
    """
    gone = lost(run, summary)
    if CURVE in gone and (rows := _curve(run, summary, settings.epochs)):
        write_text(run / CURVE, "".join(json.dumps(row) + "\n" for row in rows))
        gone.remove(CURVE)
    if gone == [ANSWERS]:
        _answer(run, images, summary)
    elif gone:
        _repeat(run, gone, summary, repeat)


def answers_text(labels: torch.Tensor, predicted: torch.Tensor) -> str:
    r"""Return the text of a file of answers.

    Args:
        labels: right class of each test image, (N,).
        predicted: class that the network answers, (N,).

    >>> answers_text(torch.tensor([3, 1]), torch.tensor([3, 2]))
    'image,label,predicted\n0,3,3\n1,1,2\n'
    """
    rows = enumerate(zip(labels.tolist(), predicted.tolist(), strict=True))
    return "image,label,predicted\n" + "".join(f"{image},{label},{answer}\n" for image, (label, answer) in rows)


def _curve(run: Path, summary: Mapping[str, Any], epochs: int) -> list[dict[str, Any]]:
    """Return the records of all epochs from the checkpoint; none where it is not that of the whole training."""
    path = run / "checkpoint" / "last.pt"
    if not path.is_file():
        return []
    try:
        state = State.of(reading.read_checkpoint(path, torch.device("cpu"), {"state"}, REMEDY)["state"])
    except (*reading.UNUSABLE, UserError):  # a damaged checkpoint is none: the training is repeated without it
        return []
    return state.records if (state.epoch, state.best_epoch) == (epochs, summary["epoch"]) else []


def _answer(run: Path, images: ImageSet, summary: Mapping[str, Any]) -> None:
    from .loop import predict  # with lightning-fabric, which a look at a folder need not load

    opened = Run.open(run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = placed(opened.model(images), device)
    if device.type == "cpu":
        fastconv.accelerate(model)  # as in the training, so that sums are rounded alike
    test = protocol(opened.settings.protocol, images, seed=opened.settings.seed).utility_test
    predicted = predict(model.eval(), test.images, stream(device, opened.settings.seed, TEST, 0, 0))
    share, told = float((predicted == test.labels.cpu()).double().mean()), summary["accuracy"]["mean"]
    if share != told:
        raise UserError(
            f"{run} has lost {ANSWERS}, and its weights answer {100 * share:.2f} % of the test images right here, not "
            f"{100 * told:.2f} % as in summary.json; put the file back, or delete the folder and train it again"
        )
    write_text(run / ANSWERS, answers_text(test.labels, predicted))


def _repeat(
    run: Path, gone: Sequence[str], summary: Mapping[str, Any], repeat: Callable[[Path], Mapping[str, Any]]
) -> None:
    found = repeat(run / AGAIN)
    keys = ("weights",) if "weights" in summary else ("accuracy", "epoch")  # earlier versions kept no digest
    if any(found[key] != summary[key] for key in keys):
        raise UserError(
            f"{run} has lost {', '.join(gone)}, and its training gives other weights here than those that were lost "
            "(another machine, version or number of threads rounds otherwise); put back what was lost, or delete the "
            "folder and train it again"
        )
    # As old as before: attacks older than the weights would count as those on other ones.
    left = [run / "summary.json", *run.glob("attacks/*/summary.json")]
    oldest = min(path.stat().st_mtime_ns for path in left)
    os.utime(run / AGAIN / SERVED, ns=(oldest, oldest))
    for name in reversed(gone):  # the weights last: killed in between, the others are made of them
        os.replace(run / AGAIN / name, run / name)
    shutil.rmtree(run / AGAIN)
