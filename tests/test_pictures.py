"""Sheets of pictures: written, and read back pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from splitveil.errors import UserError
from splitveil.pictures import image_grid_png, read_image_grid


@given(
    side=st.sampled_from([16, 28, 32, 48, 64, 96, 128]),
    count=st.integers(1, 4),
    label=st.sampled_from(["a", "a label that is wider than a picture or two"]),
)
@settings(max_examples=25, deadline=None)
def test_a_sheet_gives_its_pictures_back(side, count, label, tmp_path_factory):
    pixels = np.random.default_rng(side).integers(0, 256, (2, count, 3, side, side)).astype(np.uint8)
    path = tmp_path_factory.mktemp("sheets") / "sheet.png"
    image_grid_png([("original", pixels[0]), (label, pixels[1])], path)
    assert (read_image_grid(path, limit=count) == pixels).all()


def test_pictures_of_large_pixels_keep_their_size(tmp_path):
    """64 pixels are shown as they are: that a picture could be half as large does not make it so."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 2, 3, 32, 32)).astype(np.uint8).repeat(2, 3).repeat(2, 4)
    image_grid_png([("original", pixels[0])], tmp_path / "sheet.png")
    assert (read_image_grid(tmp_path / "sheet.png", rows=1) == pixels).all()


def test_a_file_that_is_no_sheet(tmp_path):
    Image.new("RGB", (300, 51)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match="300 × 51 pixels; expected 2 rows of square images"):
        read_image_grid(tmp_path / "x.png")
    (tmp_path / "y.png").write_bytes(b"\x89PNG damaged")
    with pytest.raises(UserError, match="cannot read the pictures"):
        read_image_grid(tmp_path / "y.png")
