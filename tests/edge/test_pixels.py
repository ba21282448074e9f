"""Images: refused where they do not fit, and scaled as Pillow scales the images of a training."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitveil.data._decode import _read
from splitveil_edge import UserError
from splitveil_edge.files import read_images
from splitveil_edge.pixels import bilinear, check_resize, prepare

SHAPE = (8, 8, 3)
SIZES = st.integers(1, 60)


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow(image, height, width):
    return np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR))


@settings(max_examples=100, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES, st.integers(0, 9))
def test_it_scales_as_pillow_does_bit_for_bit(height, width, to_height, to_width, seed):
    image = picture(height, width, seed)
    found = bilinear(image, to_height, to_width)
    if int(PIL.__version__.partition(".")[0]) >= 13 or height - to_height <= 2 * (width - to_width):
        assert np.array_equal(found, pillow(image, to_height, to_width))
    assert np.abs(found.astype(int) - pillow(image, to_height, to_width)).max() <= 1


def test_more_rows_than_are_scaled_at_once():
    image = picture(700, 900)
    assert np.array_equal(bilinear(image, 32, 32), pillow(image, 32, 32))


def test_a_photograph_is_read_as_a_training_reads_it(tmp_path):
    photo = PIL.Image.fromarray(picture(60, 80))
    exif = photo.getexif()
    exif[0x0112] = 3  # upside down, which keeps it wider than high
    photo.save(tmp_path / "photo.png", exif=exif)
    see_through = PIL.Image.fromarray(np.dstack([picture(20, 30), picture(20, 30, 1)[..., :1]]), "RGBA")
    see_through.save(tmp_path / "clear.png")
    PIL.Image.fromarray(picture(8, 8)).save(tmp_path / "exact.png")
    for name in ("photo.png", "clear.png", "exact.png"):
        ((said, image),) = read_images(tmp_path / name, SHAPE, "bilinear")
        (ready,) = prepare([image], SHAPE, "bilinear")
        assert said.endswith(name)
        assert np.array_equal(ready.transpose(2, 0, 1), _read(tmp_path / name, 8, resize=True))
    ((_, exact),) = read_images(tmp_path / "exact.png", SHAPE, None)
    assert np.array_equal(exact, picture(8, 8))
    ((_, gray),) = read_images(tmp_path / "exact.png", (8, 8, 1), None)
    assert gray.shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (picture(8, 8), r"images of shape \(8, 8, 3\); expected uint8 \(B, 8, 8, 3\); write images\[None\]"),
        (picture(8, 8)[None] / 255, r"images of float64; expected uint8 .*, gray levels 0 to 255"),
        (["photo.png"], "images of str; expected uint8"),
        ([picture(9, 8)], r"an image of 8 × 9 pixels; expected 8 × 8: scale it .*, or allow it with resize='bilinear'"),
        (picture(8, 8)[None, ..., :1], r"an image of shape \(8, 8, 1\); expected .*, the channels last"),
        ([picture(8, 8)[..., 0]], r"an image of shape \(8, 8\)"),
        ([np.empty((0, 8, 3), np.uint8)], r"an image of shape \(0, 8, 3\)"),
    ],
)
def test_other_images_are_one_line(images, words):
    with pytest.raises(UserError, match=words):
        prepare(images, SHAPE, None)


def test_scaling_is_asked_for():
    both = prepare([picture(8, 8), picture(30, 20)], SHAPE, "bilinear")
    assert both.shape == (2, 8, 8, 3)
    assert np.array_equal(both[0], picture(8, 8))
    assert prepare([], SHAPE, None).shape == (0, 8, 8, 3)
    with pytest.raises(UserError, match="resize 'nearest'; expected 'bilinear'"):
        check_resize("nearest")


def test_files_that_hold_no_images(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    (tmp_path / "a.npy").write_bytes(b"no array")
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04" + bytes(100))
    np.save(tmp_path / "header.npy", picture(8, 8))
    whole = (tmp_path / "header.npy").read_bytes()
    (tmp_path / "header.npy").write_bytes(whole[:8] + b"(" + whole[9:])
    for name, many in (("endless", 10**15), ("beyond", 2**70)):
        with (tmp_path / f"{name}.npy").open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (many, 8, 8, 3)}
            np.lib.format.write_array_header_1_0(file, header)
    np.save(tmp_path / "f.npy", np.zeros((8, 8, 3)))
    np.save(tmp_path / "many.npy", np.stack([picture(8, 8), picture(8, 8, 1)]))
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    PIL.Image.fromarray(np.zeros((8, 8), np.int32)).save(tmp_path / "deep.tif")
    for name, words in {
        "a.jpg": r"cannot read .*a\.jpg: broken, truncated, too large, or no image at all",
        "gone.png": r"cannot read .*gone\.png: No such file",
        "deep.tif": "more than 8 bits per channel; convert it to 8-bit RGB",
        "a.npy": r"a\.npy: no array of numbers; expected uint8",
        "zip.npy": r"zip\.npy: no array of numbers; expected uint8",
        "header.npy": r"header\.npy: no array of numbers; expected uint8",
        "endless.npy": r"endless\.npy: no array of numbers; expected uint8",
        "beyond.npy": r"beyond\.npy: no array of numbers; expected uint8",
        "gone.npy": r"gone\.npy: No such file",
        "object.npy": "no array of numbers",
        "f.npy": r"f\.npy holds float64 \(8, 8, 3\); expected uint8",
    }.items():
        with pytest.raises(UserError, match=words):
            read_images(tmp_path / name, SHAPE, None)
    assert [name.rpartition("/")[2] for name, _ in read_images(tmp_path / "many.npy", SHAPE, None)] == [
        "many.npy[0]",
        "many.npy[1]",
    ]
