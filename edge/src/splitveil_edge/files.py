"""Image files: .npy by numpy, all others by Pillow where it is installed, as SplitVeil reads them for a training."""

from __future__ import annotations

import logging
import math
import tokenize
import warnings
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError, printable
from .pixels import Images

INSTALL = "pip install 'splitveil-edge[images]'"
Notes = defaultdict[str, list[str]]
"""What is to be said of images that are read, in the words of a training: the words, the files."""


def read_images(
    path: Path, shape: tuple[int, int, int], resize: str | None, notes: Notes | None = None
) -> list[tuple[str, Images]]:
    """Return the images of a file, uint8 (H, W, C) of any size, each with its name.

    Args:
        path: .npy of uint8 (H, W, C) or (B, H, W, C), or any file that Pillow reads.
        shape: height, width and channels that the encoder takes.
        resize: how images of another size are scaled, None if they are not: a camera's photograph is turned upright
            only where it is scaled, as in a training.
        notes: takes what is to be said of the file (`say`), as that only the first of its frames is read.

    Raises:
        UserError: a file that is missing or no image, or Pillow is missing.
    """
    if path.suffix == ".npy":
        array = _array(path)
        return [(str(path), array)] if array.ndim == 3 else [(f"{path}[{i}]", image) for i, image in enumerate(array)]
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError:
        raise UserError(f"{path} needs Pillow ({INSTALL}); or give uint8 (H, W, C) in a .npy file") from None
    try:
        with warnings.catch_warnings():  # Pillow's warning of large images names no file
            warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
            image = PIL.Image.open(path)
        with image:
            _note(path, image, PIL.Image.MAX_IMAGE_PIXELS or math.inf, Notes(list) if notes is None else notes)
            if image.mode[0] in "IF":
                raise UserError(f"{path} has more than 8 bits per channel; convert it to 8-bit RGB")
            seen = _on_white(PIL.ImageOps.exif_transpose(image) if resize else image)
            pixels = np.asarray(seen.convert("L" if shape[2] == 1 else "RGB"))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:  # Pillow's for damaged files
        why = getattr(error, "strerror", None) or "broken, truncated, too large, or no image at all"
        raise UserError(f"cannot read {path}: {printable(why)}; give an image file, or uint8 in .npy") from None
    return [(str(path), pixels.reshape(*pixels.shape[:2], -1))]


def say(notes: Notes) -> None:
    """Warn, in one line for each kind, of what was noted of images.

    Args:
        notes: of all files that are sent.
    """
    for what, files in notes.items():
        logging.getLogger(__name__).warning("%d images are %s, e.g. %s", len(files), what, min(files))


def _note(path: Path, image: Any, most: float, notes: Notes) -> None:
    """Note what a training says of such an image."""
    if image.width * image.height > most:
        notes["very large"].append(f"{path} of {image.width} x {image.height} pixels")
    if getattr(image, "is_animated", False):
        notes["of several frames, the first of which is read"].append(str(path))


DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    OverflowError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
)
"""What numpy raises for a header that is none, or promises too much."""


def _array(path: Path) -> Images:
    try:
        array = np.load(path, allow_pickle=False)
    except DAMAGED as error:
        why = getattr(error, "strerror", None) or "no array of numbers"
        raise UserError(f"cannot read {path}: {why}; expected uint8 (H, W, C) or (B, H, W, C)") from None
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8 or array.ndim not in (3, 4):
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else "an archive"
        raise UserError(f"{path} holds {got}; expected uint8 (H, W, C) or (B, H, W, C)")
    return array


def _on_white(image: Any) -> Any:
    """Return the image as a viewer shows it: transparent pixels have color values that nobody sees."""
    import PIL.Image

    if not image.has_transparency_data and image.mode != "La":
        return image
    seen = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", seen.size, (255, 255, 255, 255)), seen)
