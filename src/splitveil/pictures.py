"""Pictures of originals above their reconstructions, as PNG for people and as arrays for programs."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .storage.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

SCALE_TO = 96  # pixels: small images are enlarged by whole factors to about this side, 32 -> 96
GAP, LABEL_SIZE, MARGIN = 6, 15, 12


@dataclass(frozen=True)
class Shown:
    """Some of the attacked images, with what an attack made of them.

    Attributes:
        originals, reconstructions: uint8 (K, C, H, W).
        places: of these images among all that were attacked, int (K,), ascending.
    """

    originals: np.ndarray
    reconstructions: np.ndarray
    places: np.ndarray


def spread(count: int, most: int) -> np.ndarray:
    """Return the places of at most ``most`` of ``count`` images, spread so that sorted ones are of several classes.

    >>> spread(100, 4), spread(3, 4)
    (array([ 0, 33, 66, 99]), array([0, 1, 2]))
    """
    return np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(int)


def inline_figure(**settings: Any) -> Figure:
    """Return a figure of matplotlib that a notebook shows where it is the last value of a cell.

    Args:
        settings: of `matplotlib.figure.Figure`.

    >>> inline_figure(figsize=(1, 1))._repr_png_()[1:4]
    b'PNG'
    """
    from matplotlib.figure import Figure

    class Inline(Figure):
        def _repr_png_(self) -> bytes:
            buffer = io.BytesIO()
            self.savefig(buffer, format="png", bbox_inches="tight")
            return buffer.getvalue()

    return Inline(**settings)


def image_grid_png(rows: Sequence[tuple[str, Any]], path: str | Path) -> None:
    """Write labeled rows of images, column k of every row being the same image k, as one PNG.

    Args:
        rows: (label, images) with images uint8 (K, C, H, W), color or gray, arrays or tensors, of one shape.
        path: where the PNG goes; written whole or not at all.

    Raises:
        UserError: no rows, or rows of other types or of different shapes.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     image_grid_png([("original", np.zeros((2, 3, 32, 32), np.uint8))], f"{folder}/grid.png")
    ...     Path(folder, "grid.png").read_bytes()[1:4]
    b'PNG'
    """
    from PIL import Image, ImageDraw, ImageFont

    if not rows:
        raise UserError("an image grid got no rows; expected at least one (label, images)")
    pixels = [(label, checked(images)) for label, images in rows]
    shape = pixels[0][1].shape
    if any(images.shape != shape for _, images in pixels):
        raise UserError(f"an image grid got rows of shapes {[i.shape for _, i in pixels]}; expected one shape")
    factor = max(1, SCALE_TO // shape[3])
    height, width = factor * shape[2], factor * shape[3]
    font = ImageFont.load_default(LABEL_SIZE)
    inside = max(len(pixels[0][1]) * (width + GAP) - GAP, *(round(font.getlength(name)) for name, _ in pixels), 1)
    step = LABEL_SIZE + GAP + height + MARGIN
    sheet = Image.new("RGB", (inside + 2 * MARGIN, len(pixels) * step + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (label, images) in enumerate(pixels):
        top = MARGIN + row * step
        draw.text((MARGIN, top - 2), label, fill="#333333", font=font)
        for column, image in enumerate(images):
            tile = _picture(image).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + column * (width + GAP), top + LABEL_SIZE + GAP))
    with atomic_write(path) as temporary:
        sheet.save(temporary, format="PNG")


def save_arrays(path: str | Path, **images: Any) -> None:
    """Write arrays of images, uint8 (K, C, H, W) each, to a compressed ``.npz`` in one rename.

    Args:
        path: file that is made or replaced.
        **images: arrays by name.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_arrays(f"{folder}/x.npz", originals=np.zeros((2, 3, 8, 8), np.uint8))
    ...     [images.shape for images in load_arrays(Path(folder, "x.npz"), ("originals",), "make it again")]
    [(2, 3, 8, 8)]
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        arrays: dict[str, Any] = {name: np.asarray(array) for name, array in images.items()}
        np.savez_compressed(file, **arrays)


def load_arrays(path: Path, names: Sequence[str], remedy: str) -> list[np.ndarray]:
    """Return arrays of a file of `save_arrays`, uint8 (K, C, H, W), the same K of each; no code runs.

    Args:
        path: file that is read.
        names: arrays that it must have.
        remedy: what to do where the file is damaged.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = [arrays[name] for name in names]
        if any(array.dtype != np.uint8 or array.ndim != 4 or len(array) != len(found[0]) for array in found):
            raise ValueError("expected arrays of bytes (K, C, H, W), of the same K")
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from None
    return found


def load_shown(path: Path, count: int, remedy: str) -> Shown:
    """Return the images that an attack has left as arrays.

    Args:
        path: file of `save_arrays`; earlier versions kept the first images and did not write their places.
        count: images that were attacked.
        remedy: as of `load_arrays`.

    Raises:
        UserError: as `load_arrays`; or places that are not those of attacked images.
    """
    originals, reconstructions = load_arrays(path, ("originals", "reconstructions"), remedy)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            places = arrays["places"] if "places" in arrays else np.arange(len(originals))
        if places.dtype.kind != "i" or places.shape != (len(originals),) or (np.diff(places, prepend=-1) < 1).any():
            raise ValueError("expected the place of each image, in ascending order")
        if (places >= count).any():
            raise ValueError(f"it has image {places.max()}, counted from 0, but {count} were attacked")
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); {remedy}") from None
    return Shown(originals, reconstructions, places)


def checked(images: Any) -> np.ndarray:
    """Return images as a NumPy array.

    Args:
        images: uint8 (K, C, H, W), C 1 or 3, K at least 1.

    Raises:
        UserError: they are of another shape or type.
    """
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        raise UserError(f"pictures came as {pixels.dtype} {pixels.shape}; expected uint8 (K, 3 or 1, H, W)")
    return np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))


def _picture(image: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
