"""Any folder of images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import UserError
from ..ranges import Images, Pixels
from ..registry import plugin
from ..storage.files import expanded
from ._decode import dimensions
from ._folders import Listing, class_names, image_set, list_classes, list_parts, loose, say_skipped
from ._select import spread
from .base import ImageSet

TEST_NAMES = ("test", "val", "validate")
LAYOUT = "train/<class>/*.jpg with test/, val/ or validate/ beside it, or <class>/*.jpg"


@plugin("folder")
def folder(
    root: str | Path | None = None,
    *,
    size: Pixels | None = None,
    download: bool = False,
    train_size: Images | None = None,
    test_size: Images | None = None,
) -> ImageSet:
    """Load your own images, folder:DIR: train/<class>/ and test|val|validate/<class>/, or only <class>/.

    Folders of classes alone are divided 80/20: of each class every fifth image by name is a test image.
    All images are resized to ``size`` x ``size`` (by default the shorter side of the first training image)
    without regard to their aspect ratio. The statistics are computed from the training images.
    """
    if download:
        raise UserError("folder has nothing to download; drop --download")
    if root is None:
        raise UserError(f"folder needs the folder of the images; expected folder:DIR with {LAYOUT}")
    base = expanded(root)
    if not base.is_dir():
        raise UserError(f"{base} is not a folder; expected one with {LAYOUT}: pass the folder with --root DIR")
    train, test, classes = _parts(base)
    sizes = (train_size, test_size)
    size = size or _natural_size(train.paths)
    return image_set(f"folder:{base}", (train, test), classes, size=size, resize=True, sizes=sizes)


def _parts(base: Path) -> tuple[Listing, Listing, list[str]]:
    classes = class_names(base)
    if "train" in classes:
        beside = [name for name in TEST_NAMES if name in classes]
        if not beside:
            raise UserError(f"{base} has train/ but no test part; expected {LAYOUT}")
        unused = sorted(set(classes) - {"train", beside[0]})
        say_skipped(base, loose(base) + Counter({f"folder ({name}/)": 1 for name in unused}))
        return list_parts(base, "train", beside[0])
    if len(classes) < 2:
        raise UserError(f"{base} has {len(classes)} class folders; expected two or more: {LAYOUT}")
    everything = list_classes(base, classes)
    counts = torch.bincount(torch.tensor(everything.labels)).tolist()
    for name, count in zip(classes, counts, strict=True):
        if count < 2:
            raise UserError(f"{base / name} has 1 image; expected 2 or more, for training and testing")
    held_out = spread(everything.labels, [max(1, round(count / 5)) for count in counts])
    train, test = (everything.take(mask.nonzero().flatten().tolist()) for mask in (~held_out, held_out))
    return train, test, classes


def _natural_size(paths: Sequence[Path]) -> int:
    path, width, height = dimensions(paths)
    side = min(width, height)
    if width != height:
        logging.getLogger(__name__).warning(
            "images are resized to %dx%d without keeping their aspect ratio (%s is %dx%d)",
            side, side, path, width, height,
        )  # fmt: skip
    return side
