"""Image files -> one memory-mapped uint8 array, decoded once and cached."""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import torch
from pydantic import Field, TypeAdapter
from torch import Tensor

from ..errors import UserError
from ..storage.files import atomic_write, expanded, write_json
from ..storage.reading import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

CHUNK = 64  # images per task: one image is too little work for a thread switch
VERSION = 2  # of the decoding: raise it when the same files would give other pixels


SHOWN = 20  # broken files that a message names


Notes = defaultdict[str, list[tuple[Path, str]]]  # what is said of images that are read: the words, files, details
NOTED = TypeAdapter(dict[str, list[tuple[Annotated[int, Field(ge=0)], str]]])  # as kept: files by their places


class BrokenImage(UserError):
    """Files that are no readable images, or not of the expected shape; ``each`` says what is wrong with each."""

    def __init__(self, *each: str):
        self.each = each
        if len(each) == 1:
            super().__init__(each[0])
            return
        more = f"; and {len(each) - SHOWN} more" if len(each) > SHOWN else ""
        super().__init__(f"{len(each)} images cannot be used: {'; '.join(each[:SHOWN])}{more}")


def decode(paths: Sequence[Path], size: int, *, resize: bool, label: str) -> Tensor:
    """Return the images at ``paths`` as uint8 (N, 3, size, size), memory-mapped copy-on-write.

    The first call decodes in parallel into a file of the cache folder (``SPLITVEIL_CACHE``, by default
    ``~/.cache/splitveil``); later calls map that file until a path, a size or a time stamp changes. What is to be said
    of the images, as that only the first of several frames is read, is said at every call.

    Args:
        paths: image files, any mode of 8 bits per channel; what is transparent is seen on white.
        size: height and width of the result.
        resize: whether images of another shape are scaled to ``size`` x ``size``, or an error.
        label: shown beside the progress bar.

    Raises:
        UserError: every broken or wrongly shaped file is named; the cache cannot be written.
    """
    key = _key(paths, size, resize)
    shape = (len(paths), 3, size, size)
    cached = cache_folder() / f"{key}.npy"
    array = _open(cached, shape)
    if array is None:
        _decode_into(cached, paths, shape, resize, label)
        array = _open(cached, shape)
    if array is None:
        raise UserError(f"cannot read {cached} back; set SPLITVEIL_CACHE to a folder on a sound disk")
    _say(_kept_notes(cached, paths))
    images = torch.from_numpy(array)
    images.mapped_from = array.base  # type: ignore[attr-defined] (see `Split.release`)
    return images


def try_out(paths: Sequence[Path], size: int, *, resize: bool, label: str) -> None:
    """Decode without a result, only to name what is broken."""
    _key(paths, size, resize)
    notes = Notes(list)
    for _ in _chunks(paths, size, resize, label, notes):
        pass
    _say(notes)


def dimensions(paths: Sequence[Path]) -> tuple[Path, int, int]:
    """Return the first readable of the files, its width and its height, upright.

    Raises:
        UserError: none is readable; each is named.
    """
    broken: list[str] = []
    _without_pillows_warning()
    for path in paths:
        try:
            image = _read(path)
        except BrokenImage as error:
            broken += error.each
        else:
            return path, image.shape[2], image.shape[1]
    raise BrokenImage(*broken)


def _key(paths: Sequence[Path], size: int, resize: bool) -> str:
    digest = hashlib.blake2b(f"{VERSION} {size} {resize}".encode(), digest_size=16)
    folders: dict[Path, str] = {}
    broken: list[str] = []
    for path in paths:
        if path.parent not in folders:
            folders[path.parent] = str(path.parent.resolve())
        try:
            stat = path.stat()
        except OSError as error:
            broken.append(f"cannot read {path}: {error.strerror}; put the file back or fix its rights")
            continue
        # Two files that change places keep their sizes and their times of writing, not those of their entries.
        entry = f"\0{folders[path.parent]}\0{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
        digest.update(os.fsencode(entry))
    if broken:
        raise BrokenImage(*broken)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder of what is kept between commands: decoded images, judges of clean images."""
    setting = os.environ.get("SPLITVEIL_CACHE")
    if setting:
        return expanded(setting)
    try:
        return Path.home() / ".cache" / "splitveil"
    except RuntimeError:
        raise UserError(
            "decoded images are kept in ~/.cache/splitveil, but this user has no home; "
            "set SPLITVEIL_CACHE to a writable folder"
        ) from None


def _open(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return the cached array; None where there is none or it is damaged (it is then written again)."""
    header = _header(shape)
    try:
        with path.open("rb") as handle:
            whole = handle.read(len(header)) == header
        whole = whole and path.stat().st_size == len(header) + math.prod(shape)
    except OSError:
        return None
    return np.memmap(path, np.uint8, "c", len(header), shape) if whole else None


def _header(shape: tuple[int, ...]) -> bytes:
    """Return the first bytes of a cached array of this shape: a file that begins otherwise is not read."""
    written = io.BytesIO()
    np.lib.format.write_array_header_2_0(written, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return written.getvalue()


def _decode_into(cached: Path, paths: Sequence[Path], shape: tuple[int, ...], resize: bool, label: str) -> None:
    notes = Notes(list)
    try:
        with atomic_write(cached) as temporary, temporary.open("wb") as handle:
            handle.write(_header(shape))
            # Written in order and not through a map: a full disk is then an error and not a dead process.
            for chunk in _chunks(paths, shape[-1], resize, label, notes):
                handle.write(chunk.data)
            if notes:  # before the array appears, so that none is without its notes
                place = {path: index for index, path in enumerate(paths)}
                kept = {what: [(place[path], more) for path, more in files] for what, files in notes.items()}
                write_json(_beside(cached), kept)
    except BrokenImage:
        raise
    except UserError as error:
        raise UserError(f"{error} for decoded images: set SPLITVEIL_CACHE to a writable folder") from error


def _beside(cached: Path) -> Path:
    """Return the file with what is said of the images of a cached array."""
    return cached.with_suffix(".json")


def _kept_notes(cached: Path, paths: Sequence[Path]) -> Notes:
    """Return what was noted when these images were decoded; nothing where there is no such file."""
    notes, file = Notes(list), _beside(cached)
    if not file.is_file():
        return notes
    for what, files in read_json(file, NOTED, f"remove {file} and {cached}: the images are then read again").items():
        notes[what] += [(paths[index], more) for index, more in files if index < len(paths)]
    return notes


def _chunks(paths: Sequence[Path], size: int, resize: bool, label: str, notes: Notes) -> Iterator[np.ndarray]:
    from rich.console import Console
    from rich.progress import Progress

    def work(start: int) -> tuple[np.ndarray, list[str]]:
        chunk = paths[start : start + CHUNK]
        pixels, broken = np.empty((len(chunk), 3, size, size), np.uint8), list[str]()
        for index, path in enumerate(chunk):
            try:
                pixels[index] = _read(path, size, resize, notes)
            except BrokenImage as error:
                broken += error.each
        return pixels, broken

    _without_pillows_warning()
    console = Console(stderr=True)
    workers = min(os.cpu_count() or 1, 16)
    hidden = not sys.stderr.isatty()
    with (
        Progress(console=console, transient=True, disable=hidden) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        task = bar.add_task(f"decoding {label}", total=len(paths))
        failed: list[str] = []
        for chunk, broken in pool.map(work, range(0, len(paths), CHUNK)):
            failed += broken
            if not failed:  # what is written beside a broken image is thrown away
                yield chunk
            bar.advance(task, len(chunk))
    if failed:
        raise BrokenImage(*failed)


def _read(path: Path, size: int | None = None, resize: bool = False, notes: Notes | None = None) -> np.ndarray:
    """Return one file as uint8 (3, H, W)."""
    import PIL.Image
    import PIL.ImageOps

    try:
        with _opened(path, notes if notes is not None else Notes(list)) as image:
            if image.mode[0] in "IF":
                raise BrokenImage(f"{path} has more than 8 bits per channel; convert it to 8-bit RGB")
            # A camera stores the turn beside the pixels; an image of the exact size has no camera behind it.
            upright = PIL.ImageOps.exif_transpose(image) if resize or size is None else image
            visible = _on_white(upright)
            if size is not None and visible.size != (size, size):
                visible = _fit(path, visible, size, resize)
            rgb = visible if visible.mode == "RGB" else visible.convert("RGB")
            pixels = np.frombuffer(rgb.tobytes(), np.uint8)
            return pixels.reshape(rgb.height, rgb.width, 3).transpose(2, 0, 1)
    except BrokenImage:
        raise
    except PIL.Image.DecompressionBombError:
        most = 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)
        raise BrokenImage(f"{path} has more than {most:,} pixels, more than Pillow reads; scale it down") from None
    except MemoryError:
        raise BrokenImage(f"{path} does not fit into memory; scale it down") from None
    except Exception as error:  # Pillow's decoders do not agree on one type for damaged bytes
        reason = getattr(error, "strerror", None) or "broken or truncated image, or no image at all"
        raise BrokenImage(f"cannot decode {path}: {reason}; replace or remove it") from error


def _opened(path: Path, notes: Notes) -> Image:
    """Open the file; only its header has been read so far."""
    import PIL.Image

    image = PIL.Image.open(io.BytesIO(path.read_bytes()))
    if image.width * image.height > (PIL.Image.MAX_IMAGE_PIXELS or math.inf):
        notes["very large"].append((path, f" of {image.width} x {image.height} pixels"))
    if getattr(image, "is_animated", False):
        notes["of several frames, the first of which is read"].append((path, ""))
    return image


def _say(notes: Notes) -> None:
    for what, files in notes.items():
        path, more = min(files)
        logging.getLogger(__name__).warning("%d images are %s, e.g. %s%s", len(files), what, path, more)


def _without_pillows_warning() -> None:
    """Silence Pillow's warning of large images, which names no file; for good, as filters are the process's."""
    import PIL.Image

    warnings.filterwarnings("ignore", category=PIL.Image.DecompressionBombWarning)


def _on_white(image: Image) -> Image:
    """Return the image as a viewer shows it: transparent pixels have color values that nobody sees."""
    import PIL.Image

    if not image.has_transparency_data and image.mode != "La":  # which Pillow forgets there
        return image
    if image.mode == "La":
        image = image.convert("LA")
    seen = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", seen.size, (255, 255, 255, 255)), seen).convert("RGB")


def _fit(path: Path, image: Image, size: int, resize: bool) -> Image:
    if not resize:
        got = f"{image.width}x{image.height}"
        raise BrokenImage(f"{path} is {got}; expected {size}x{size}: remove it, or load the folder as folder:ROOT")
    return image.convert("RGB").resize((size, size), resample=2)  # 2: bilinear, antialiased
