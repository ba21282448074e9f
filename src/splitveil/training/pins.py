"""Digests of the images that a run was trained on, which are compared before it is used again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .. import config
from ..data import ImageSet
from ..data.protocol import divided_as_ever
from ..errors import UserError

DIGESTS: dict[str, tuple[str, Callable[[ImageSet], str]]] = {
    "train_digest": ("training images", lambda images: images.train.digest()),
    "test_digest": ("test images", lambda images: images.test.digest()),
    "labels_digest": ("labels", lambda images: _labels_digest(images)),
}
"""Name -> what it stands for, and how it is taken."""


DIVISION = {"division": "2"}
"""How the images of a run were divided: as `data.protocol.divide` does since version 0.2.0, which had no such entry."""


def of(images: ImageSet) -> dict[str, str]:
    """Return the digests of an image set: SHA-256 of the pixels of both parts, and of the labels.

    Args:
        images: image set of a run.

    >>> from splitveil.data import load
    >>> sorted(of(load("digits", train_size=20, test_size=20)))
    ['labels_digest', 'test_digest', 'train_digest']
    """
    return {name: take(images) for name, (_, take) in DIGESTS.items()}


def check(kept: Mapping[str, Any], images: ImageSet, run: Path) -> None:
    """Compare images with stored digests; those that an older version did not store are left out.

    Args:
        kept: digests by name.
        images: image set that is to be used.
        run: folder, for the message.

    Raises:
        UserError: the run was trained with other images, or with another division of them.
    """
    if kept.get("train_digest") and "division" not in kept and not divided_as_ever(images):
        raise UserError(
            f"{run} was trained by an earlier version, which divided images with rare classes or copies otherwise: now "
            "some that it has learned from would validate or attack; train it again"
        )
    changed = [what for name, (what, take) in DIGESTS.items() if kept.get(name) and kept[name] != take(images)]
    if changed:
        raise UserError(
            f"{run} was trained with other {' and '.join(changed)} than {images.name} holds now; put those back, "
            "name their folder with --root DIR, or train it again (another version of Pillow may read other pixels)"
        )


def check_checkpoint(saved: Mapping[str, Any], settings: config.TrainConfig, images: ImageSet, run: Path) -> None:
    """Compare images with the digests in a checkpoint; an older one has no digests but the settings.

    Args:
        saved: the checkpoint.
        settings: of the training.
        images: image set that is to be used.
        run: folder, for the message.

    Raises:
        UserError: the training was begun with other images, or, where that cannot be told, in another folder.
    """
    if "images" in saved:
        check(saved["images"], images, run)
        return
    root = config.parse(yaml.safe_load(saved["settings"])).resolve().root
    if root != settings.root:
        raise UserError(
            f"{run} was begun with the images in {root}, now {settings.root}, and its checkpoint, of an older version, "
            "cannot tell whether they are the same: put them back, or use another --out"
        )


def _labels_digest(images: ImageSet) -> str:
    labels = [len(images.classes), images.train.labels.tolist(), images.test.labels.tolist()]
    return hashlib.sha256(json.dumps(labels).encode()).hexdigest()
