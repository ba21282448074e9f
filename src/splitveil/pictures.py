"""Pictures for people: rows of originals above their reconstructions, as PNG."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError
from .storage.files import atomic_write

if TYPE_CHECKING:
    from PIL.Image import Image

SCALE_TO = 96  # pixels: small images are enlarged by whole factors to about this side, 32 -> 96
GAP, LABEL_SIZE, MARGIN = 6, 15, 12


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


def read_image_grid(path: str | Path, rows: int = 2, limit: int | None = None) -> np.ndarray:
    """The images of a sheet that `image_grid_png` wrote, at their own size: uint8 (rows, K, 3, S, S), all square.

    Args:
        rows: how many rows the sheet has.
        limit: at most this many images of a row; a sheet of few images is as wide as its labels.

    Raises:
        UserError: the file cannot be read, or is no such sheet.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     images = np.arange(5 * 3 * 32 * 32).astype(np.uint8).reshape(5, 3, 32, 32)
    ...     image_grid_png([("a", images), ("b", images)], f"{folder}/grid.png")
    ...     bool((read_image_grid(f"{folder}/grid.png")[1] == images).all())
    True
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            sheet = np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError) as error:  # Pillow's word for a damaged PNG
        raise UserError(f"cannot read the pictures {path}: {error}; run the attack again") from None
    side, rest = divmod(sheet.shape[0] - MARGIN, rows)
    side -= LABEL_SIZE + GAP + MARGIN
    columns = (sheet.shape[1] - 2 * MARGIN + GAP) // (side + GAP) if side > 0 else 0
    count = min(columns, limit or columns)
    if rest or count < 1:
        raise UserError(f"{path} has {sheet.shape[1]} × {sheet.shape[0]} pixels; expected {rows} rows of square images")
    step = LABEL_SIZE + GAP + side + MARGIN
    tops = [MARGIN + row * step + LABEL_SIZE + GAP for row in range(rows)]
    lefts = [MARGIN + column * (side + GAP) for column in range(count)]
    tiles = np.stack([[sheet[top : top + side, left : left + side] for left in lefts] for top in tops])
    factor = _enlargement(tiles)
    return tiles[:, :, ::factor, ::factor].transpose(0, 1, 4, 2, 3)


def data_uri(image: np.ndarray) -> str:
    """One image, uint8 (3, H, W), as a PNG inside a ``data:`` address."""
    buffer = io.BytesIO()
    _picture(image).save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def checked(images: Any) -> np.ndarray:
    """``images`` as a NumPy array (K, 3, H, W); UserError unless it is uint8 (K, 3 or 1, H, W), K at least 1."""
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or pixels.size == 0:
        raise UserError(f"pictures came as {pixels.dtype} {pixels.shape}; expected uint8 (K, 3 or 1, H, W)")
    return np.broadcast_to(pixels, (len(pixels), 3, *pixels.shape[2:]))


def _enlargement(tiles: np.ndarray) -> int:
    """The largest factor by which the tiles (rows, K, side, side, 3) may have been enlarged."""
    side = tiles.shape[2]
    across = (tiles[:, :, :, 1:] != tiles[:, :, :, :-1]).any(axis=(0, 1, 2, 4))
    down = (tiles[:, :, 1:] != tiles[:, :, :-1]).any(axis=(0, 1, 3, 4))
    common = math.gcd(side, *(np.flatnonzero(across | down) + 1).tolist())  # pixels change at multiples of the factor
    possible = (f for f in range(common, 1, -1) if side % f == 0 and f == max(1, SCALE_TO // (side // f)))
    return next(possible, 1)


def _picture(image: np.ndarray) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
