"""Image files as users have them: transparent, of every format, broken in several places, too large."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, features

from splitveil.data import ImageSet, Split, _decode, load, protocol
from splitveil.errors import UserError

SIDE = 32


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path_factory.mktemp("cache")))


def stroke(i: int, mode: str = "RGBA") -> Image.Image:
    """A black stroke on a fully transparent ground whose hidden color is black too."""
    image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))
    ImageDraw.Draw(image).line((i, 2, 30 - i, 30), (0, 0, 0, 255), 3)
    return image.convert(mode)


def palette(i: int) -> Image.Image:
    """The same as a palette with one transparent entry, as GIF has it."""
    black = Image.fromarray(np.asarray(stroke(i))[..., 3] // 255).convert("P")
    black.putpalette([0, 0, 0] * 2)
    black.info["transparency"] = 0
    return black


SAVED = {
    "rgba.png": stroke,
    "la.png": lambda i: stroke(i, "LA"),
    "rgba.webp": stroke,
    "rgba.tif": stroke,
    "palette.png": palette,
    "palette.gif": palette,
}


@pytest.mark.parametrize("name", SAVED)
def test_what_is_transparent_is_read_as_it_is_shown(tmp_path, name):
    path = tmp_path / name
    more = {"transparency": 0} if "palette" in name else {"lossless": True} if "webp" in name else {}
    SAVED[name](5).save(path, **more)
    expected = np.where(np.asarray(stroke(5))[..., 3:] == 255, 0, 255)
    assert np.array_equal(_decode._read(path), np.broadcast_to(expected, (SIDE, SIDE, 3)).transpose(2, 0, 1))


def test_a_palette_may_hold_the_transparency_itself():
    """As in a webp or tiff that a program made into a palette: no entry is named as transparent."""
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 0] + 255 * [0, 0, 0, 255], "RGBA")
    assert _decode._on_white(image).getpixel((0, 0)) == (255, 255, 255)


def test_a_color_that_png_calls_transparent_is_white(tmp_path):
    pixels = np.full((4, 4, 3), 7, np.uint8)
    pixels[0, 0] = (9, 8, 7)
    Image.fromarray(pixels).save(tmp_path / "key.png", transparency=(9, 8, 7))
    assert _decode._read(tmp_path / "key.png")[:, 0, :2].tolist() == [[255, 7]] * 3


@given(color=st.tuples(*[st.integers(0, 255)] * 4))
def test_half_transparent_is_the_mean_with_white(tmp_path_factory, color):
    path = tmp_path_factory.mktemp("x") / "x.png"
    Image.new("RGBA", (2, 2), color).save(path)
    alpha = color[3] / 255
    expected = [alpha * value + (1 - alpha) * 255 for value in color[:3]]
    assert np.abs(_decode._read(path)[:, 0, 0] - np.array(expected)).max() <= 1


def test_ink_on_a_transparent_ground_trains(tmp_path):
    for part, count in (("train", 30), ("test", 10)):
        for name in "01":
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                stroke(i).save(tmp_path / part / name / f"{i}.png")
    assert len(load(f"folder:{tmp_path}").train.images.unique(dim=0)) == 30


def blank(count: int, value: int = 0) -> Split:
    return Split(torch.full((count, 3, 8, 8), value, dtype=torch.uint8), torch.arange(count) % 2)


def noise(count: int, seed: int) -> Split:
    rng = torch.Generator().manual_seed(seed)
    return Split(torch.randint(256, (count, 3, 8, 8), generator=rng, dtype=torch.uint8), torch.arange(count) % 2)


def as_set(train: Split, test: Split) -> ImageSet:
    return ImageSet("folder:ink", train, test, ["a", "b"], (0.5,) * 3, (0.5,) * 3, 8)


@pytest.mark.parametrize("name", ["train_time", "inference_time", "auxiliary"])
@pytest.mark.parametrize("value", [0, 255])
def test_equal_images_are_named_as_the_reason(name, value):
    with pytest.raises(UserError, match="all 100 images of folder:ink have the same pixels") as caught:
        protocol(name, as_set(blank(60, value), blank(40, value)))
    assert "load more" not in str(caught.value)


def test_an_attacker_that_knows_only_what_it_is_to_reconstruct_is_told_so():
    with pytest.raises(UserError, match=r"each of the 36 images for the attacker .*; remove the duplicates"):
        protocol("inference_time", as_set(noise(60, 0), blank(40)))
    train = noise(60, 0)
    with pytest.raises(UserError, match=r"each of the 54 training images .* as one that validates or tests"):
        protocol("train_time", as_set(train, train))


def test_too_few_images_still_ask_for_more():
    with pytest.raises(UserError, match=r"attacker_test is empty; load more images.*4 for utility_test"):
        protocol("inference_time", as_set(noise(60, 0), noise(4, 1)))


def colored(root: Path, suffix: str = "png", count: int = 4) -> Path:
    """Images of one color each, told apart by it; all parts and classes."""
    for p, part in enumerate(("train", "test")):
        for c, name in enumerate("ab"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                color = (100 * p + 20 * i, 100 * c, 50)
                Image.new("RGB", (SIDE, SIDE), color).save(root / part / name / f"{i}.png")
                (root / part / name / f"{i}.png").rename(root / part / name / f"{i}.{suffix}")
    return root


FORMATS = ["tif", "TIFF", "jfif", "gif", "jpe", "webp", "bmp", "jp2", "tga", "ico", "pcx", "ppm", "qoi", "sgi", "apng"]
FORMATS += ["avif"] if features.check("avif") else []


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_that_pillow_reads_is_read(tmp_path, suffix, caplog):
    colored(tmp_path)
    expected = load(f"folder:{tmp_path}").train.images.float()
    for path in (tmp_path / "train").rglob("*.png"):
        with Image.open(path) as image:
            known = Image.registered_extensions()[f".{suffix.lower()}"]
            image.save(
                path.with_suffix(f".{suffix}"), format=known, **({"sizes": [(32, 32)]} if suffix == "ico" else {})
            )
        if suffix != "png":
            path.unlink()
    found = load(f"folder:{tmp_path}").train.images.float()
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 12  # some of them lose a little
    assert not caplog.records


def test_what_is_skipped_is_counted_and_said(tmp_path, caplog):
    colored(tmp_path)
    (tmp_path / "train/a/0.heic").write_bytes(b"")
    (tmp_path / "train/b/1.HEIC").write_bytes(b"")
    (tmp_path / "train/b/notes").write_text("")
    (tmp_path / "train/b/.shown.jpg").write_bytes(b"")
    (tmp_path / "train/b/.DS_Store").write_bytes(b"")
    (tmp_path / "train/b/more").mkdir()
    shutil.copy(tmp_path / "test/a/0.png", tmp_path / "test/loose.png")
    shutil.copytree(tmp_path / "test", tmp_path / "val")
    shutil.copytree(tmp_path / "train/a", tmp_path / "train/.a")
    (tmp_path / "train/.git").mkdir()
    (tmp_path / "train/c.tar").write_bytes(b"")
    with caplog.at_level(logging.WARNING):
        assert len(load(f"folder:{tmp_path}").train) == 8
    said = [record.getMessage() for record in caplog.records]
    expected = {
        tmp_path: "1 folder (val/)",
        tmp_path / "train": (
            "2 .heic, 1 archive(s), 1 hidden folder(s) of images, 1 hidden, 1 folder(s), 1 without a suffix"
        ),
        tmp_path / "test": "1 outside the folders of the classes",
    }
    assert [line.partition(";")[0] for line in said] == [
        f"skipped in {folder}: {what}" for folder, what in expected.items()
    ]


def test_a_class_of_files_that_cannot_be_read_says_what_it_holds(tmp_path):
    colored(tmp_path)
    for path in (tmp_path / "train/b").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(UserError, match=r"no image in .*train/b \(it holds 4 \.heic\); expected"):
        load(f"folder:{tmp_path}")


@pytest.mark.parametrize("size", ["", "size=16,"])
def test_all_broken_images_of_both_parts_are_named_at_once(tmp_path, size):
    colored(tmp_path)
    bad = ["train/a/0.png", "train/a/1.png", "train/b/0.png", "train/b/3.png", "test/a/0.png", "test/b/2.png"]
    for name in bad:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:40])
    with pytest.raises(UserError, match="6 images cannot be used: ") as caught:
        load(f"folder:{size}root={tmp_path}")
    assert [name for name in bad if str(tmp_path / name) in str(caught.value)] == bad
    assert "\n" not in str(caught.value)


def test_of_very_many_broken_images_twenty_are_named(tmp_path):
    colored(tmp_path, count=15)
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"30 images cannot be used: .*; and 10 more$") as caught:
        load(f"folder:{tmp_path}")
    assert str(caught.value).count("cannot decode") == 20


def test_files_that_vanished_are_named_together(tmp_path):
    with pytest.raises(UserError, match=r"2 images cannot be used: cannot read .*a\.png: No such.*b\.png"):
        _decode.decode([tmp_path / "a.png", tmp_path / "b.png"], 8, resize=True, label="x")


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


@pytest.mark.filterwarnings("error")
def test_a_large_image_is_named_and_a_huge_one_refused_for_what_it_is(tmp_path, caplog, small_limit):
    colored(tmp_path)  # 32 x 32 is above the limit, which stands for Pillow's 89 million
    Image.new("RGB", (50, 30)).save(tmp_path / "train/a/2.png")
    load(f"folder:root={tmp_path},size=16")
    said = [record.getMessage() for record in caplog.records]
    assert any(str(tmp_path / "train/a/0.png") + " of 32 x 32 pixels" in line for line in said)
    Image.new("RGB", (50, 50)).save(tmp_path / "test/b/2.png")
    with pytest.raises(UserError, match=r"test/b/2\.png has more than 2,000 pixels, more than Pillow reads; scale it"):
        load(f"folder:root={tmp_path},size=16")


@pytest.mark.parametrize("kind", ["gif", "tif", "webp", "apng"])
def test_frames_that_are_not_read_are_said(tmp_path, caplog, monkeypatch, kind):
    colored(tmp_path)
    frames = [Image.new("RGB", (32, 32), (i * 100, 0, 0)) for i in range(3)]
    known = Image.registered_extensions()[f".{kind}"]
    frames[0].save(tmp_path / f"train/a/9.{kind}", format=known, save_all=True, append_images=frames[1:])
    images = load(f"folder:{tmp_path}")
    assert int(images.train.images[4].max()) <= 1
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"1 images are of several frames, the first of which is read, e.g. {tmp_path}/train/a/9.{kind}"
    caplog.clear()
    monkeypatch.chdir(tmp_path)
    load("folder:.")  # decoded already: whoever reads the images now must be told as well, of the path as given
    assert [record.getMessage() for record in caplog.records] == [said.replace(f"{tmp_path}/", "")]


def test_large_images_are_named_each_time_and_damaged_notes_end_in_one_line(tmp_path, caplog, small_limit):
    colored(tmp_path)
    load(f"folder:root={tmp_path},size=16")
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    load(f"folder:root={tmp_path},size=16")
    assert said
    assert [record.getMessage() for record in caplog.records] == said
    for kept in _decode.cache_folder().glob("*.json"):
        kept.write_text('{"very large": [[-1, 2]]}')
    with pytest.raises(
        UserError, match=r"\.json.*remove .*\.json and .*\.npy: the images are then read again"
    ) as caught:
        load(f"folder:root={tmp_path},size=16")
    assert "\n" not in str(caught.value)


def test_a_user_without_a_home_is_told_of_the_variable(tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    colored(tmp_path)
    monkeypatch.setattr(Path, "home", homeless)
    load(f"folder:{tmp_path}")  # the variable is set
    monkeypatch.delenv("SPLITVEIL_CACHE")
    with pytest.raises(UserError, match="this user has no home; set SPLITVEIL_CACHE to a writable folder"):
        load(f"folder:{tmp_path}")
