"""Folders of images: ``PART/<class>/*.jpg``, read by name, selected, then decoded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import UserError
from ..files import expanded
from ._decode import decode
from ._select import chosen
from .base import ImageSet, Split, channel_statistics

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm"})
DEFAULT_ROOT = Path("data")
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean, std
Sizes = tuple[int | None, int | None]  # train_size, test_size


@dataclass(frozen=True)
class Listing:
    """Image files and the index of the class of each; nothing is decoded yet."""

    paths: list[Path]
    labels: list[int]

    def take(self, indices: Sequence[int]) -> Listing:
        """The files at ``indices``, in that order."""
        return Listing([self.paths[i] for i in indices], [self.labels[i] for i in indices])


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in ``folder``, by name, without hidden files; UserError where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; check the path and its rights") from error


def class_names(folder: Path) -> list[str]:
    """The folders in ``folder``, by name."""
    return [entry.name for entry in entries(folder) if entry.is_dir()]


def image_files(folder: Path) -> list[Path]:
    """The image files in ``folder``, by name."""
    return [folder / e.name for e in entries(folder) if Path(e.name).suffix.lower() in SUFFIXES]


def list_classes(folder: Path, classes: Sequence[str], inside: str = "") -> Listing:
    """The images ``folder/<class>/[inside/]*``, class by class.

    Raises:
        UserError: a class has no folder, no image, or cannot be read.
    """
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = image_files(folder / name / inside)
        if not found:
            raise UserError(f"no image in {folder / name / inside}; expected .jpg or .png files; remove it if empty")
        paths += found
        labels += [label] * len(found)
    return Listing(paths, labels)


def list_parts(root: Path, train_name: str, test_name: str) -> tuple[Listing, Listing, list[str]]:
    """Train and test listing and the classes of ``root/train_name/<class>/``, ``root/test_name/<class>/``."""
    classes = class_names(root / train_name)
    if not classes:
        raise UserError(f"no class folder in {root / train_name}; expected {train_name}/<class>/*.jpg, *.png")
    train = list_classes(root / train_name, classes)
    tested = class_names(root / test_name)
    strangers = sorted(set(tested) - set(classes))
    if strangers:
        raise UserError(
            f"{root / test_name / strangers[0]} is a class that {root / train_name} lacks; "
            "expected the same class folders in both"
        )
    if not tested:
        raise UserError(f"no class folder in {root / test_name}; expected {test_name}/<class>/*.jpg, *.png")
    listed = list_classes(root / test_name, tested)
    return train, Listing(listed.paths, [classes.index(tested[i]) for i in listed.labels]), classes


def find_root(root: str | Path | None, folder: str, markers: Sequence[str], layout: str) -> Path:
    """The folder that holds all ``markers``: ``root``, or ``root/folder``; by default ``data``.

    Raises:
        UserError: neither does; the message describes ``layout``.
    """
    base = DEFAULT_ROOT if root is None else expanded(root)
    for candidate in (base, base / folder):
        if all((candidate / marker).exists() for marker in markers):
            return candidate
    what = "holds no such images" if base.is_dir() else "is not a folder"
    raise UserError(f"{base} {what}; expected {layout}: pass the folder with --root DIR")


def image_set(
    name: str,
    listings: tuple[Listing, Listing],
    classes: list[str],
    *,
    size: int,
    resize: bool = False,
    statistics: Statistics | None = None,
    sizes: Sizes = (None, None),
) -> ImageSet:
    """Select (``sizes``: train_size, test_size), decode, and bundle; statistics are computed where None."""
    splits = []
    for part, listing, wanted in zip(("train", "test"), listings, sizes, strict=True):
        some = listing if wanted is None else listing.take(chosen(listing.labels, wanted, part).tolist())
        images = decode(some.paths, size, resize=resize, label=f"{name} {part}")
        splits.append(Split(images, torch.tensor(some.labels)))
    mean, std = statistics or channel_statistics(splits[0].images)
    return ImageSet(name, splits[0], splits[1], classes, mean, std, size)
