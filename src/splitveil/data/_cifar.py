"""The loader of CIFAR-10 and CIFAR-100: the official archive through torchvision, or folders of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..storage.files import expanded
from ._folders import DEFAULT_ROOT, Sizes, Statistics, class_names, image_set, list_parts
from ._select import chosen
from .base import ImageSet, Split


def load_cifar(
    name: str,
    torchvision_class: str,
    statistics: Statistics,
    known: Sequence[str],
    *,
    root: str | Path | None,
    download: bool,
    sizes: Sizes,
) -> ImageSet:
    """Load the first of these in ``root/name`` or ``root``: image folders, official files, official archive.

    Folders ``train`` and ``test`` of other classes are those of another image set, and passed over.
    """
    base = DEFAULT_ROOT if root is None else expanded(root)
    places, strange = (base / name, base), list[Path]()
    for folder in places:
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            if found := _stranger(folder / "train", known):
                strange.append(found)
                continue
            train, test, classes = list_parts(folder, "train", "test")
            return image_set(name, (train, test), classes, size=32, statistics=statistics, sizes=sizes)
    from torchvision import datasets

    official: Any = getattr(datasets, torchvision_class)
    for folder in (inside for place in places for inside in (place, place / official.base_folder)):
        if (folder / official.train_list[0][0]).is_file():
            here = type(torchvision_class, (official,), {"base_folder": ""})
            return _official(name, here, folder, statistics, sizes, fetch=False)
    for folder in places:
        if (folder / official.filename).is_file():
            _check_archive(folder / official.filename, official.tgz_md5)
            return _official(name, official, folder, statistics, sizes, fetch=True)
    if download:
        return _official(name, official, base, statistics, sizes, fetch=True)
    if strange:
        raise UserError(
            f"{strange[0]} is no class of {name}; expected {', '.join(known[:10])}{', ...' * (len(known) > 10)}: load "
            f"images of your own with folder:{strange[0].parents[1]}"
        )
    raise UserError(
        f"no {name} in {base}; expected {official.base_folder}/, {official.filename}, "
        "or train/<class>/*.png and test/<class>/*.png: pass the folder with --root DIR, or --download"
    )


def _stranger(folder: Path, known: Sequence[str]) -> Path | None:
    """Return the first folder in ``folder`` that has neither the name of a known class nor a number; None: all have."""
    numbers = {str(number) for number in range(len(known))}  # as many scripts write these images
    for name in class_names(folder):
        if name.lower().replace(" ", "_").replace("-", "_") not in numbers.union(known):
            return folder / name
    return None


def _check_archive(path: Path, md5: str) -> None:
    from torchvision.datasets.utils import check_integrity

    if not check_integrity(str(path), md5):
        raise UserError(f"{path} is damaged or incomplete; remove it, then pass --download")


def _official(
    name: str,
    official: Any,
    folder: Path,
    statistics: Statistics,
    sizes: Sizes,
    *,
    fetch: bool,
) -> ImageSet:
    splits: list[Split] = []
    classes: list[str] = []
    for part, wanted in zip(("train", "test"), sizes, strict=True):
        try:
            data = official(str(folder), train=part == "train", download=fetch)
        except (RuntimeError, OSError, EOFError) as error:
            what = "is damaged or incomplete; remove it, then pass --download"
            if fetch:
                what = "cannot be fetched or unpacked; check network and disk, or put the official files there"
            reason = " ".join(str(error).split())
            raise UserError(f"{name} in {folder} {what} ({reason})") from error
        labels = torch.tensor(data.targets)
        indices = chosen(labels, wanted, part)
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2)[indices].contiguous()
        splits.append(Split(images, labels[indices]))
        classes = list(data.classes)
    return ImageSet(name, splits[0], splits[1], classes, *statistics, 32)
