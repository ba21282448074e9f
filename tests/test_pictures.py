"""Sheets of pictures, and the arrays beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from splitveil.errors import UserError
from splitveil.pictures import image_grid_png, load_arrays, load_shown, save_arrays, spread


@pytest.mark.parametrize("shape", [(16, 16), (32, 20), (128, 128)])
def test_a_sheet_shows_each_image_enlarged_by_a_whole_factor(shape, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, *shape)).astype(np.uint8)
    image_grid_png([("original", pixels)], tmp_path / "sheet.png")
    sheet, factor = np.asarray(Image.open(tmp_path / "sheet.png")), max(1, 96 // shape[1])
    large = pixels[0].transpose(1, 2, 0).repeat(factor, 0).repeat(factor, 1)
    top, left = 12 + 15 + 6, 12
    assert (sheet[top : top + large.shape[0], left : left + large.shape[1]] == large).all()


def test_arrays_come_back_as_they_were_and_the_file_does_not_depend_on_the_time(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 1, 8, 6)).astype(np.uint8)
    for name in "ab":
        save_arrays(tmp_path / f"{name}.npz", originals=images[0], reconstructions=images[1])
    found = load_arrays(tmp_path / "a.npz", ("originals", "reconstructions"), "")
    assert (np.stack(found) == images).all()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    "arrays",
    [
        {"originals": np.zeros((2, 3, 4, 4), np.uint8)},
        {"originals": np.zeros((2, 3, 4, 4)), "reconstructions": np.zeros((2, 3, 4, 4))},
        {"originals": np.zeros((2, 3, 4, 4), np.uint8), "reconstructions": np.zeros((1, 3, 4, 4), np.uint8)},
        {"originals": np.array([print]), "reconstructions": np.array([print])},
    ],
)
def test_damaged_arrays_are_named_with_what_to_do(arrays, tmp_path):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=r"x.npz is damaged \(.*\); run the attack again"):
        load_arrays(tmp_path / "x.npz", ("originals", "reconstructions"), "run the attack again")
    whole = (tmp_path / "x.npz").read_bytes()
    for part in (b"", b"PK damaged", whole[: len(whole) // 2]):
        (tmp_path / "x.npz").write_bytes(part)
        with pytest.raises(UserError, match="damaged"):
            load_arrays(tmp_path / "x.npz", ("originals", "reconstructions"), "run the attack again")


@pytest.mark.parametrize(("count", "most"), [(10, 10), (1000, 10), (12, 10), (1, 10), (3, 1), (0, 4)])
def test_places_are_spread_over_all_and_none_is_there_twice(count, most):
    places = spread(count, most)
    assert len(places) == min(count, most)
    assert (np.diff(places, prepend=-1) >= 1).all()
    if len(places) > 1:
        assert (places[0], places[-1]) == (0, count - 1)
        assert np.ptp(np.diff(places)) <= 1


IMAGES = {name: np.zeros((2, 3, 4, 4), np.uint8) for name in ("originals", "reconstructions")}


def test_arrays_of_earlier_versions_are_those_of_the_first_images(tmp_path):
    save_arrays(tmp_path / "a.npz", **IMAGES)
    save_arrays(tmp_path / "b.npz", **IMAGES, places=np.array([3, 7]))
    assert [load_shown(tmp_path / f"{name}.npz", 8, "").places.tolist() for name in "ab"] == [[0, 1], [3, 7]]


@pytest.mark.parametrize("places", [[0], [3, 8], [7, 3], [-1, 3], [3, 3], [0.0, 1.0], [[0, 1]], [print, print]])
def test_places_that_are_none_are_damage(places, tmp_path):
    np.savez(tmp_path / "x.npz", allow_pickle=True, **IMAGES, places=np.array(places))
    with pytest.raises(UserError, match=r"x.npz is damaged \(.*\); run the attack again"):
        load_shown(tmp_path / "x.npz", 8, "run the attack again")


def test_image_grid_keeps_pixels_and_rows(tmp_path):
    rng = np.random.default_rng(0)
    originals, guesses = rng.integers(0, 256, (2, 4, 3, 32, 32), dtype=np.uint8)
    image_grid_png([("original", originals), ("decoder", torch.from_numpy(guesses))], tmp_path / "grid.png")
    sheet = np.asarray(Image.open(tmp_path / "grid.png")).transpose(2, 0, 1)
    step = 15 + 6 + 96 + 12
    for row, images in enumerate((originals, guesses)):
        for column, image in enumerate(images):
            top, left = 12 + row * step + 21, 12 + column * 102
            assert np.array_equal(sheet[:, top : top + 96 : 3, left : left + 96 : 3], image)
            assert np.array_equal(sheet[:, top + 2 : top + 96 : 3, left + 2 : left + 96 : 3], image)
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "got no rows"),
        ([("a", np.zeros((2, 3, 8, 8)))], r"float64 \(2, 3, 8, 8\); expected uint8"),
        ([("a", np.zeros((2, 2, 8, 8), np.uint8))], r"expected uint8 \(K, 3 or 1, H, W\)"),
        (
            [("a", np.zeros((2, 3, 8, 8), np.uint8)), ("b", np.zeros((3, 3, 8, 8), np.uint8))],
            "expected one shape",
        ),
    ],
)
def test_bad_grids_are_refused(tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        image_grid_png(rows, tmp_path / "grid.png")
    assert list(tmp_path.iterdir()) == []
