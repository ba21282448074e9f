"""Folders of images: ``PART/<class>/*.jpg``, read by name, selected, then decoded."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from ..errors import UserError
from ..storage.files import expanded
from ._decode import BrokenImage, decode, try_out
from ._select import chosen
from .base import ImageSet, Split, channel_statistics

STUBS = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
"""Formats that Pillow knows by name but cannot decode itself."""
ARCHIVES = frozenset({".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"})
DEFAULT_ROOT = Path("data")
Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean, std
Sizes = tuple[int | None, int | None]  # train_size, test_size


@dataclass(frozen=True)
class Listing:
    """Image files and the index of the class of each; nothing is decoded yet."""

    paths: list[Path]
    labels: list[int]

    def take(self, indices: Sequence[int]) -> Listing:
        """Return the files at ``indices``, in that order."""
        return Listing([self.paths[i] for i in indices], [self.labels[i] for i in indices])


def entries(folder: Path, hidden: bool = False) -> list[os.DirEntry[str]]:
    """Return what is in ``folder``, by name, with hidden files only if asked; UserError where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return sorted((e for e in found if hidden or not e.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"cannot read {folder}: {error.strerror}; check the path and its rights") from error


def class_names(folder: Path) -> list[str]:
    """Return the folders in ``folder``, by name."""
    return [entry.name for entry in entries(folder) if entry.is_dir()]


@cache
def suffixes() -> frozenset[str]:
    """Return the endings, in small letters, of the file names that Pillow can read here."""
    import PIL.Image

    known = PIL.Image.registered_extensions()  # loads all of its formats, hence before OPEN is looked at
    readable = (set(PIL.Image.OPEN) | {"MPO"}) - STUBS  # MPO, of stereo cameras, is opened as JPEG
    return frozenset(suffix for suffix, kind in known.items() if kind in readable)


def image_files(folder: Path, skipped: Counter[str] | None = None) -> list[Path]:
    """Return the image files in ``folder``, by name; count all else by its kind in ``skipped``."""
    found: list[Path] = []
    for entry in entries(folder, hidden=True):
        if entry.name.startswith("."):  # nobody misses a system's own hidden files
            kind = "hidden" if Path(entry.name).suffix.lower() in suffixes() else None
        elif entry.is_dir():
            kind = "folder(s)"
        elif (kind := Path(entry.name).suffix.lower()) in suffixes():
            found.append(folder / entry.name)
            continue
        if skipped is not None and kind is not None:
            skipped[kind or "without a suffix"] += 1
    return found


def say_skipped(folder: Path, skipped: Counter[str]) -> None:
    """Warn, in one line, of what was left out below ``folder``."""
    if skipped:
        logging.getLogger(__name__).warning(
            "skipped in %s: %s; what Pillow reads here and lies in the folder of a class is used",
            folder,
            _counted(skipped),
        )


def _counted(skipped: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in skipped.most_common())


def list_classes(folder: Path, classes: Sequence[str], inside: str = "") -> Listing:
    """List the images ``folder/<class>/[inside/]*``, class by class; warn of files that are left out.

    Raises:
        UserError: a class has no folder, no image, or cannot be read.
    """
    paths: list[Path] = []
    labels: list[int] = []
    skipped = loose(folder)
    for label, name in enumerate(classes):
        others = Counter[str]()
        found = image_files(folder / name / inside, others)
        if not found:
            holds = f" (it holds {_counted(others)})" if others else ""
            raise UserError(
                f"no image in {folder / name / inside}{holds}; expected .jpg, .png or other files that Pillow reads; "
                "remove it if empty"
            )
        skipped += others
        paths += found
        labels += [label] * len(found)
    say_skipped(folder, skipped)
    return Listing(paths, labels)


def loose(folder: Path) -> Counter[str]:
    """Count what lies beside the folders of classes and may be missed: images, archives, hidden folders of images."""
    beside = entries(folder, hidden=True)
    hidden = [folder / entry.name for entry in beside if entry.name.startswith(".") and entry.is_dir()]
    shown = [entry for entry in beside if not entry.name.startswith(".") and not entry.is_dir()]
    endings = [Path(entry.name).suffix.lower() for entry in shown]
    found = {
        "outside the folders of the classes": sum(ending in suffixes() for ending in endings),
        "archive(s)": sum(ending in ARCHIVES for ending in endings),
        "hidden folder(s) of images": sum(os.access(path, os.R_OK) and bool(image_files(path)) for path in hidden),
    }
    return Counter({kind: count for kind, count in found.items() if count})


def list_parts(root: Path, train_name: str, test_name: str) -> tuple[Listing, Listing, list[str]]:
    """Return train and test listing and the classes of ``root/train_name/<class>/``, ``root/test_name/<class>/``."""
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
    """Return the folder that holds all ``markers``: ``root/folder``, or ``root``; by default ``data``.

    Raises:
        UserError: neither does; the message describes ``layout``.
    """
    base = DEFAULT_ROOT if root is None else expanded(root)
    for candidate in (base / folder, base):  # what bears the name of the set, before what may be another one
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
    """Select (``sizes``: train_size, test_size), decode and bundle; compute the statistics where they are None."""
    splits: list[Split] = []
    broken: list[str] = []
    example = None
    for part, listing, wanted in zip(("train", "test"), listings, sizes, strict=True):
        some = listing if wanted is None else listing.take(chosen(listing.labels, wanted, part).tolist())
        about = {"resize": resize, "label": f"{name} {part}"}
        try:
            if broken:  # nothing is kept of a set that cannot be used, but its other part is looked through as well
                try_out(some.paths, size, **about)
            else:
                splits.append(Split(decode(some.paths, size, **about), torch.tensor(some.labels)))
                example = next(iter(some.paths), None)
        except BrokenImage as error:
            broken += error.each
    if broken:
        raise BrokenImage(*broken)
    mean, std = statistics or channel_statistics(splits[0].images)
    return ImageSet(name, splits[0], splits[1], classes, mean, std, size, example)
