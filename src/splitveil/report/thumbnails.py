"""What the strongest attack made of some of the attacked images, one strip for each cell, up to a budget of bytes."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..evaluation.evaluate import ARRAYS
from ..pictures import checked, load_shown, spread
from ..results.record_types import Record
from ..results.records import AGAIN, per_image

SHOWN = 10
CELLS, BUDGET = 300, 12 * 2**20
"""So many cells' strips, and bytes of them all, go into a page."""
GAP = 16  # between two images of a strip: this part of their width


@dataclass
class Strips:
    """The strips of a page.

    Attributes:
        cells: id of the cell -> its strip: ``uri``, ``originals`` (a key), ``errors`` (MSE of each image).
        originals: key -> ``uri``, ``count``; cells that were attacked on the same images share them.
        left_out: cells whose strip did not fit.
        without_arrays: cells without a file of their images; earlier versions kept them in a picture only.
        damaged: id of a cell -> why its images cannot be read.
    """

    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    originals: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: int = 0
    without_arrays: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def gather(folder: Path, records: Iterable[Record], cells: int = CELLS, budget: int = BUDGET) -> Strips:
    """Return the strips of ``records``, in order of need, up to a number of cells and bytes; some have no picture."""
    strips, spent = Strips(), 0
    for record in records:
        cell, label = folder / "cells" / record.id, record.strongest
        arrays = cell / "attacks" / label / ARRAYS
        if not arrays.is_file():
            strips.without_arrays += 1
            continue
        if len(strips.cells) >= cells or spent >= budget:
            strips.left_out += 1
            continue
        try:
            errors = per_image(cell, label)["mse"]
            shown = load_shown(arrays, len(errors), AGAIN)
        except UserError as error:
            strips.damaged[record.id] = str(error).replace(f"{cell}{os.sep}", "")
            continue
        some = spread(len(shown.places), SHOWN)
        originals, found = (checked(array[some]) for array in (shown.originals, shown.reconstructions))
        key = hashlib.sha256(originals.tobytes()).hexdigest()[:12]
        if key not in strips.originals:
            strips.originals[key] = {"uri": strip_uri(originals), "count": len(originals)}
            spent += len(strips.originals[key]["uri"])
        strips.cells[record.id] = {
            "uri": strip_uri(found),
            "originals": key,
            "errors": [float(f"{error:.4g}") for error in errors[shown.places[some]]],
        }
        spent += len(strips.cells[record.id]["uri"])
    return strips


def strip_uri(images: np.ndarray) -> str:
    """uint8 (K, 3, H, W) side by side with transparent gaps, as one PNG in a ``data:`` address; nothing is lost.

    >>> strip_uri(np.zeros((2, 3, 16, 16), np.uint8))[:22]
    'data:image/png;base64,'
    """
    from PIL import Image

    count, _, height, width = images.shape
    gap = max(1, width // GAP)
    strip = np.zeros((height, count * (width + gap) - gap, 4), np.uint8)
    for place, image in enumerate(images):
        left = place * (width + gap)
        strip[:, left : left + width, :3] = image.transpose(1, 2, 0)
        strip[:, left : left + width, 3] = 255
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
