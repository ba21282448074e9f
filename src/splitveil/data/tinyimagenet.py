"""TinyImageNet: 200 classes of ImageNet at 64x64."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from ..errors import UserError
from ..ranges import Images
from ..registry import plugin
from ._folders import DEFAULT_ROOT, Listing, class_names, find_root, image_files, image_set, list_classes, say_skipped
from .base import ImageSet

# Statistics of the 100,000 training images in common use: mean and standard deviation over all pixels.
STATISTICS = ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))
LAYOUT = (
    "the official layout: train/<wnid>/images/*.JPEG, val/images/, val/val_annotations.txt and wnids.txt "
    "(or val/images/<wnid>/, val/<wnid>/ and train/<wnid>/)"
)


@plugin("tinyimagenet")
def tinyimagenet(
    root: str | Path | None = DEFAULT_ROOT,
    *,
    download: bool = False,
    train_size: Images | None = None,
    test_size: Images | None = None,
) -> ImageSet:
    """Load TinyImageNet (64x64), official layout or val images sorted into classes; these are the test split.

    ``root`` is the folder ``tiny-imagenet-200`` or its parent; ``data`` by default. The classes are those of
    wnids.txt whose training folder is there, sorted, so a part of the 200 is fine. Nothing is downloaded.
    """
    if download:
        raise UserError("tinyimagenet is not downloaded; unpack its archive yourself and pass --root DIR")
    folder = find_root(root, "tiny-imagenet-200", ("train", "val", "wnids.txt"), LAYOUT)
    listed, there = set(_lines(folder / "wnids.txt")), set(class_names(folder / "train"))
    wnids = sorted(listed & there)
    if not wnids:
        raise UserError(f"{folder / 'train'} holds none of the classes of wnids.txt; expected {LAYOUT}")
    if strangers := len(there - listed):
        say_skipped(folder / "train", Counter({"folder(s) that wnids.txt lacks": strangers}))
    listings = (_by_class(folder / "train", wnids), _validation(folder / "val", wnids))
    sizes = (train_size, test_size)
    titles = _titles(folder, wnids)
    return image_set("tinyimagenet", listings, titles, size=64, statistics=STATISTICS, sizes=sizes)


def _by_class(folder: Path, wnids: list[str]) -> Listing:
    """List images in ``folder/<wnid>/images/``, or, where no class has that, in ``folder/<wnid>/``."""
    here = [wnid for wnid in wnids if (folder / wnid).is_dir()]
    inside = "images" if any((folder / wnid / "images").is_dir() for wnid in here) else ""
    found = list_classes(folder, here, inside)
    return Listing(found.paths, [wnids.index(here[label]) for label in found.labels])


def _validation(folder: Path, wnids: list[str]) -> Listing:
    """List the validation images where the archive puts them, or where scripts that sort them into classes do.

    The order is the same, and so are the images of every part.
    """
    sorted_into = [base for base in (folder / "images", folder) if any((base / wnid).is_dir() for wnid in wnids)]
    if sorted_into and not (folder / "val_annotations.txt").is_file():
        return _by_class(sorted_into[0], wnids)
    annotated = _annotated(folder, wnids)
    there = sum(path.exists() for path in annotated.paths) if sorted_into else len(annotated.paths)
    if not there:
        return _by_class(sorted_into[0], wnids)
    if there < len(annotated.paths):  # halfway through such a script nobody can tell what belongs to the part
        raise UserError(
            f"{folder} has images both in {sorted_into[0]}/<wnid>/ and beside it; "
            "finish sorting them into classes, or unpack the archive again"
        )
    return annotated


def _annotated(folder: Path, wnids: list[str]) -> Listing:
    annotations = folder / "val_annotations.txt"
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    labeled: list[tuple[int, str]] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(_lines(annotations), 1):
        fields = line.split("\t")
        if len(fields) < 2:
            raise UserError(f"{annotations} line {number} is '{line[:40]}'; expected file<TAB>wnid<TAB>box")
        if (first := lines_of.setdefault(fields[0], number)) != number:
            raise UserError(f"{annotations} lists {fields[0]} in lines {first} and {number}; expected each image once")
        if fields[1] in label_of:
            labeled.append((label_of[fields[1]], fields[0]))
    if not labeled:
        raise UserError(f"{annotations} names no image of the classes in train/; expected {LAYOUT}")
    labeled.sort()
    there = image_files(folder / "images") if (folder / "images").is_dir() else []
    if unlisted := sum(path.name not in lines_of for path in there):
        say_skipped(folder / "images", Counter({"image(s) that val_annotations.txt lacks": unlisted}))
    return Listing([folder / "images" / name for _, name in labeled], [label for label, _ in labeled])


def _titles(folder: Path, wnids: list[str]) -> list[str]:
    """Return the first name in words.txt of each class; all its names where that is ambiguous; else the wnid."""
    words = folder / "words.txt"
    rows = [line.partition("\t") for line in _lines(words)] if words.is_file() else []
    full = {wnid: names for wnid, _, names in rows}
    texts = [full.get(wnid) or wnid for wnid in wnids]
    first = [text.split(",")[0] for text in texts]
    count = Counter(first)
    return [short if count[short] == 1 else text for short, text in zip(first, texts, strict=True)]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}; expected {LAYOUT}") from error
