"""A checkpoint folder of the published code becomes a run folder with the same features and logits.

The published model is three files: `f` (device), `cloud` and `classifier`, each the state dictionary of a
`Sequential` (of a single `Linear` for the ResNet's classifier). Names inside differ from version to version,
the order of the layers does not: tensors are matched by order, kind and shape, and each must find its place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from .. import config, data, runs
from ..errors import UserError, did_you_mean
from ..model import SplitModel
from ..randomness import stream
from ..recipe import TEST
from ..storage.files import write_text
from ..storage.folders import foreign
from ..training import pins
from .fitting import NORMALIZATION, fit
from .options import read_flags
from .tensors import FILES, read_checkpoint
from .translate import DATASETS, Reading
from .wire import SIZES

NUMBER = r"(\d+\.?\d*(?:e-?\d+)?)"
IN_NAME = {
    "lambd": rf"(?:^|_)lambd_{NUMBER}_",
    "regularization_strength": rf"_noise_{NUMBER}_",
    "num_epochs": r"_epoch_(\d+)_",
    "bottleneck_option": r"_bottleneck_([A-Za-z0-9_]+?)_log_",
    "log_entropy": rf"_log_{NUMBER}(?:_|$)",
    "AT_regularization_strength": rf"_ATstrength_{NUMBER}(?:_|$)",
    "learning_rate": rf"_lr_{NUMBER}(?:_|$)",
    "var_threshold": rf"_varthres_{NUMBER}(?:_|$)",
}
"""Setting -> pattern that finds it in a published folder's name."""
CLASSES = {10: "cifar10", 100: "cifar100", 200: "tinyimagenet", 530: "facescrub"}


@dataclass(frozen=True)
class Imported:
    """The result of an import: the run folder, its summary, and notes."""

    path: Path
    summary: dict[str, Any]
    notes: list[str]


def import_checkpoint(
    folder: str | Path,
    out: str | Path,
    *,
    options: Sequence[str] = (),
    reading: Reading = "paper",
    root: str | Path | None = None,
    train_size: int | None = None,
    test_size: int | None = None,
    checkpoint: str = "best",
    normalization: Literal["published", "own"] = "published",
) -> Imported:
    """Write the run folder `out` from the checkpoint `folder`, or one file; `splitveil attack` accepts it.

    Args:
        folder: folder of the checkpoint, or one file of it. What `options` leave open is read off its name and tensors.
        out: run folder that is made.
        options: published flags, such as `["--cutlayer", "4", "--dataset=cifar10"]`.
        reading: "paper" or "code".
        root: folder of the images; without images the accuracy is not measured and stands as null.
        train_size: number of training images; None: all.
        test_size: number of test images; None: all.
        checkpoint: "best" or an epoch, the last part of the files' names.
        normalization: "published" constants of the published code, "own" those of the image set.

    Raises:
        UserError: a file is missing, truncated, malicious or of another network (the tensor is named), or
            `out` is not empty; nothing is written then.
    """
    folder, out = Path(folder), Path(out)
    if normalization not in ("published", "own"):
        hint = did_you_mean(normalization, ("published", "own")) or ";"
        raise UserError(f"--normalization is '{normalization}'{hint} expected published or own")
    if not folder.exists():
        names = ", ".join(f"checkpoint_{part}_best.tar" for part in FILES)
        raise UserError(f"{folder} is no folder; expected one with {names}")
    if foreign(out):
        raise UserError(f"{out} is not empty; choose another --out")
    flags = settings_in_name(folder if folder.is_dir() else folder.parent) | read_flags(options)
    stored = read_checkpoint(folder, checkpoint)
    classes, notes = _classes(stored.tensors["classifier"]), list[str]()
    flags["dataset"] = flags.get("dataset") or _dataset(classes)
    images = _images(flags["dataset"], classes, root, train_size, test_size, notes)
    settings, model = fit(stored, flags, reading, images, notes)
    update = {"root": Path(root) if root else None, "train_size": train_size, "test_size": test_size}
    settings = settings.model_copy(update=update).resolve()
    if normalization == "published" and (constants := NORMALIZATION.get(settings.data)):
        model.mean.copy_(torch.tensor(constants[0]))
        model.std.copy_(torch.tensor(constants[1]))
    summary = _summary(model.eval(), settings, images)
    summary |= pins.of(images) | pins.DIVISION if isinstance(images, data.ImageSet) else {}
    summary["imported"] = {
        "folder": folder.name,
        "sha256": {path.name: _digest(path) for path in sorted(set(stored.paths.values()))},
        "notes": notes,
    }
    runs.save_weights(model, out / "model.safetensors")
    write_text(out / "config.yaml", config.dump(settings, imported_from=folder.name))
    summary = runs.write_summary(out, summary)  # last: it marks a run as finished
    return Imported(out, summary, notes)


def settings_in_name(folder: Path) -> dict[str, Any]:
    """Return the published flags that the folder's name and its parents' names tell.

    Args:
        folder: folder of a published checkpoint.

    >>> settings_in_name(Path("saves/cifar10/nopeek_infocons_sgm/lambd_16_noise_0.025_epoch_240_x"))
    {'lambd': 16.0, 'regularization_strength': 0.025, 'num_epochs': 240, 'AT_regularization': 'nopeek',
    'dataset': 'cifar10', 'regularization': 'Gaussian'}
    """
    words: dict[str, str] = {}
    for name, pattern in IN_NAME.items():
        if match_ := re.search(pattern, folder.name):
            words[name] = match_[1]
    if match_ := re.match(r"(.+?)_infocons", folder.absolute().parent.name):
        words["AT_regularization"] = match_[1]
    for parent in folder.parts[-5:]:
        if parent in DATASETS:
            words["dataset"] = parent
    if float(words.get("regularization_strength", 0)) > 0:
        words["regularization"] = "Gaussian"
    return read_flags([f"--{name}={value}" for name, value in words.items()])


def _classes(tensors: dict[str, Tensor]) -> int:
    weights = [value for value in tensors.values() if value.ndim == 2]
    if not weights:
        raise UserError(
            "the classifier's file has no matrix, so the number of classes is unknown; is it the right file?"
        )
    return int(weights[-1].shape[0])


def _dataset(classes: int) -> str:
    if classes not in CLASSES:
        raise UserError(f"the classifier has {classes} outputs, which no published image set has; give --data")
    return CLASSES[classes]


def _images(
    name: str,
    classes: int,
    root: str | Path | None,
    train_size: int | None,
    test_size: int | None,
    notes: list[str],
) -> data.ImageSet | int:
    """Return the image set, or, where it is not on this machine, the number of classes."""
    try:
        images = data.load(name, root=root, train_size=train_size, test_size=test_size)
    except UserError as error:
        if root is not None or name not in SIZES:
            raise
        notes.append(f"accuracy not measured: {error}")
        return classes
    if len(images.classes) != classes:
        raise UserError(
            f"the classifier has {classes} outputs, {name} has {len(images.classes)} classes; "
            "give the --data it was trained on"
        )
    return images


@torch.no_grad()
def _summary(model: SplitModel, settings: config.TrainConfig, images: data.ImageSet | int) -> dict[str, Any]:
    from ..statistics.intervals import binomial_ci
    from ..training.trainer import correct

    shape = list(model.wire_shape)
    accuracy, count = None, 0
    if isinstance(images, data.ImageSet):
        split = data.protocol(settings.protocol, images, seed=settings.seed).utility_test
        hits = correct(model, split, stream("cpu", settings.seed, TEST, 0, 0))
        accuracy, count = binomial_ci(int(hits.sum()), len(hits)).as_dict(), len(hits)
    return {
        "accuracy": accuracy,
        "accuracy_val": None,
        "epoch": None,
        "leakage_nats": None,
        "seconds": None,
        "images": {"train": None, "test": count},
        "parameters": runs.parameter_counts(model),
        "wire": {"shape": shape, "bytes": 4 * int(torch.tensor(shape).prod())},
        "precision": "32-true",
        "environment": runs.environment(),
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
