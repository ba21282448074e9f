"""Loading: layouts, selection, decoding, cache, and the messages for bad input."""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from splitveil.data import ImageSet, Split, _decode, _folders, load
from splitveil.errors import UserError

RNG = np.random.default_rng
PAIR = ("airplane", "automobile")
DATA = Path(os.environ.get("SPLITVEIL_TEST_DATA", "data"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path: Path, value: int | np.ndarray, size: tuple[int, int] = (32, 32)) -> Path:
    """A PNG of one gray value, or of the given (H, W, 3) pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = value if isinstance(value, np.ndarray) else np.full((*size[::-1], 3), value, np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def tree(root: Path, parts: dict[str, int], classes: Sequence[str] = PAIR, size: tuple[int, int] = (32, 32)) -> Path:
    """``parts[part]`` images per class; the value encodes part, class and number, so any mix-up shows."""
    for p, (part, count) in enumerate(parts.items()):
        for c, name in enumerate(classes):
            for i in range(count):
                write(root / part / name / f"{i:03}.png", 100 * p + 20 * c + i, size)
    return root


def values(split: Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("inside", ["", "cifar10"])
def test_cifar10_reads_class_folders_in_name_order(tmp_path, inside):
    tree(tmp_path / inside, {"train": 3, "test": 2})
    images = load("cifar10", root=tmp_path)
    assert isinstance(images, ImageSet)
    assert (images.classes, images.size, images.mean[0]) == ([*PAIR], 32, 0.4914)
    assert values(images.train) == [0, 1, 2, 20, 21, 22]
    assert values(images.test) == [100, 101, 120, 121]
    assert images.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.example == tmp_path / inside / "test/airplane/000.png"


def test_decoded_pixels_are_exactly_those_of_the_file(tmp_path):
    pixels = RNG(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    tree(tmp_path, {"train": 1, "test": 1})
    write(tmp_path / "train/airplane/000.png", pixels)
    got = load("cifar10", root=tmp_path).train.images[0]
    assert np.array_equal(got.permute(1, 2, 0).numpy(), pixels)


def test_train_size_decodes_only_the_first_of_each_class(tmp_path, monkeypatch):
    tree(tmp_path, {"train": 4, "test": 3})
    read = []
    original = _decode._read
    monkeypatch.setattr(_decode, "_read", lambda path, *a: (read.append(path.name), original(path, *a))[1])
    images = load("cifar10", root=tmp_path, train_size=3, test_size=2)
    assert values(images.train) == [0, 1, 20]
    assert values(images.test) == [100, 120]
    assert sorted(read) == ["000.png"] * 4 + ["001.png"]


def test_cache_is_used_until_a_file_changes(tmp_path, monkeypatch):
    tree(tmp_path, {"train": 2, "test": 2})
    load("cifar10", root=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(_decode, "_read", lambda *_: pytest.fail("decoded again"))
        assert values(load("cifar10", root=tmp_path).train) == [0, 1, 20, 21]
    write(tmp_path / "train/airplane/001.png", 77)
    assert values(load("cifar10", root=tmp_path).train) == [0, 77, 20, 21]


def test_files_that_change_places_are_decoded_again(tmp_path):
    """Of one size, and written in the same moment."""
    folder = tmp_path / "train/airplane"
    for part in ("train", "test"):
        for name, value in (("000.bmp", 5), ("001.bmp", 6)):
            (tmp_path / part / "airplane").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((32, 32, 3), value + 20 * (part == "test"), np.uint8)).save(
                tmp_path / part / "airplane" / name
            )
            os.utime(tmp_path / part / "airplane" / name, ns=(10**18, 10**18))
    assert values(load("cifar10", root=tmp_path).train) == [5, 6]
    (folder / "000.bmp").rename(folder / "x.bmp")
    (folder / "001.bmp").rename(folder / "000.bmp")
    (folder / "x.bmp").rename(folder / "001.bmp")
    assert values(load("cifar10", root=tmp_path).train) == [6, 5]


def test_a_damaged_cache_file_is_written_again(tmp_path):
    tree(tmp_path, {"train": 2, "test": 2})
    load("cifar10", root=tmp_path)
    for file in Path(os.environ["SPLITVEIL_CACHE"]).iterdir():
        file.write_bytes(file.read_bytes()[:200])
    assert values(load("cifar10", root=tmp_path).train) == [0, 1, 20, 21]


def test_writing_to_loaded_images_leaves_the_cache_alone(tmp_path):
    tree(tmp_path, {"train": 2, "test": 2})
    load("cifar10", root=tmp_path).train.images.zero_()
    assert values(load("cifar10", root=tmp_path).train) == [0, 1, 20, 21]


def test_concurrent_loads_agree_and_leave_no_temporary_file(tmp_path):
    tree(tmp_path, {"train": 8, "test": 2})
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: values(load("cifar10", root=tmp_path).train), range(4)))
    assert results == [[*range(8), *range(20, 28)]] * 4
    assert [f for f in Path(os.environ["SPLITVEIL_CACHE"]).iterdir() if f.suffix != ".npy"] == []


def test_more_images_than_one_chunk_stay_in_order(tmp_path):
    count = _decode.CHUNK + 5
    for part in ("train", "test"):
        for i in range(count):
            write(tmp_path / part / "airplane" / f"{i:03}.png", i)
    assert values(load("cifar10", root=tmp_path).test) == list(range(count))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_8_bit_mode_becomes_rgb(tmp_path, mode):
    tree(tmp_path, {"train": 1, "test": 1})
    suffix = "jpg" if mode == "CMYK" else "png"
    image = Image.new("RGB", (32, 32), (255, 255, 255)).convert(mode)
    image.save(tmp_path / f"train/airplane/001.{suffix}")
    assert load("cifar10", root=tmp_path).train.images[1].min() >= 254


BROKEN = {
    "empty": b"",
    "text": b"no image",
    "header": b"\x89PNG\r\n\x1a\n",
    "bad chunk": b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\x04IHDR" + b"\xff" * 8,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_file_is_named(tmp_path, content):
    tree(tmp_path, {"train": 2, "test": 1})
    (tmp_path / "train/automobile/001.png").write_bytes(content)
    with pytest.raises(UserError, match=r"cannot decode .*train/automobile/001\.png: broken.*; replace or remove it"):
        load("cifar10", root=tmp_path)
    assert list(Path(os.environ["SPLITVEIL_CACHE"]).iterdir()) == []


@given(cut=st.integers(0, 400))
def test_a_truncated_jpeg_is_named(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("jpeg") / "x.jpg"
    noise = RNG(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 1 - cut])
    with pytest.raises(UserError, match=re.escape(f"cannot decode {path}")):
        _decode._read(path, 16)


def test_a_wrongly_shaped_file_is_named(tmp_path):
    tree(tmp_path, {"train": 1, "test": 1})
    write(tmp_path / "test/airplane/000.png", 0, (31, 32))
    with pytest.raises(UserError, match=r"test/airplane/000\.png is 31x32; expected 32x32"):
        load("cifar10", root=tmp_path)


def test_16_bit_files_are_refused_rather_than_clipped(tmp_path):
    tree(tmp_path, {"train": 1, "test": 1})
    Image.fromarray(np.full((32, 32), 40000, np.uint16)).save(tmp_path / "test/airplane/000.png")
    with pytest.raises(UserError, match="more than 8 bits"):
        load("cifar10", root=tmp_path)


def test_an_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    tree(tmp_path, {"train": 1, "test": 1})
    monkeypatch.setenv("SPLITVEIL_CACHE", str(write(tmp_path / "file.png", 0) / "below"))
    with pytest.raises(UserError, match="set SPLITVEIL_CACHE to a writable folder"):
        load("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_size": 5}, "train size 5: there are 4 train images"),
        ({"train_size": 0}, "train_size is 0; expected a whole number from 1"),
        ({"test_size": -1}, "test_size is -1; expected"),
        ({"test_size": 5}, "test size 5: there are 4 test images"),
    ],
)
def test_sizes_out_of_range(tmp_path, options, message):
    tree(tmp_path, {"train": 2, "test": 2})
    with pytest.raises(UserError, match=message):
        load("cifar10", root=tmp_path, **options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "cifar10",
            "no cifar10 in .*expected cifar-10-batches-py/, cifar-10-python.tar.gz, or train/<class>",
        ),
        ("cifar100", "no cifar100 in .*expected cifar-100-python/"),
        ("tinyimagenet", "val_annotations.txt.*--root DIR"),
        ("facescrub", "validate/<identity>.*--root DIR"),
        ("folder", "0 class folders; expected two or more: train/<class>"),
    ],
)
def test_an_empty_root_says_which_layout_is_expected(tmp_path, name, expected):
    with pytest.raises(UserError, match=expected):
        load(name, root=tmp_path)
    with pytest.raises(UserError, match=str(tmp_path / "missing")):
        load(name, root=tmp_path / "missing")


def test_empty_and_strange_class_folders(tmp_path):
    tree(tmp_path, {"train": 1, "test": 1})
    (tmp_path / "test/truck").mkdir()
    with pytest.raises(UserError, match=r"test/truck is a class that .*train lacks"):
        load("cifar10", root=tmp_path)
    (tmp_path / "train/truck").mkdir()
    with pytest.raises(UserError, match=r"no image in .*train/truck"):
        load("cifar10", root=tmp_path)


def test_an_unreadable_folder_is_an_error_of_the_user(tmp_path, monkeypatch):
    tree(tmp_path, {"train": 1, "test": 1})

    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(_folders.os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read .*train: Permission denied"):
        load("cifar10", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar11", "unknown data set 'cifar11'; did you mean 'cifar10'?"),
        ("folder:sise=3", "unknown parameter of folder 'sise'; did you mean 'size'?"),
        ("folder:size=big", "folder: size is 'big'; expected a whole number"),
        ("folder", "folder needs the folder of the images; expected folder:DIR"),
        ("folder:size=0,root=x", "folder: size is 0"),
    ],
)
def test_bad_names(name, message):
    with pytest.raises(UserError) as caught:
        load(name)
    assert message in str(caught.value)


def test_root_given_twice(tmp_path):
    with pytest.raises(UserError, match="root is given twice"):
        load(f"folder:{tmp_path}", root=tmp_path)


@pytest.mark.parametrize("test_part", ["test", "val", "validate"])
def test_folder_with_parts_takes_size_and_statistics_from_the_images(tmp_path, test_part):
    tree(tmp_path, {"train": 2, test_part: 1}, size=(24, 24))
    images = load(f"folder:{tmp_path}")
    assert images.size == 24
    assert values(images.train) == [0, 1, 20, 21]
    assert images.mean[0] == pytest.approx(np.mean([0, 1, 20, 21]) / 255)
    assert images.std[0] == pytest.approx(np.std([0, 1, 20, 21]) / 255)
    assert load(f"folder:root={tmp_path},size=16").train.images.shape == (4, 3, 16, 16)


def test_folder_resizes_and_says_so(tmp_path, caplog):
    tree(tmp_path, {"train": 2, "test": 1}, size=(40, 20))
    assert load(f"folder:{tmp_path}").size == 20
    assert "resized to 20x20 without keeping their aspect ratio" in caplog.text


def test_folder_turns_camera_images_upright(tmp_path):
    tree(tmp_path, {"train": 1, "test": 1}, size=(8, 8))
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255  # white top row; orientation 6 means: turn clockwise, so it becomes the right column
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "train/airplane/000.png", exif=exif)
    image = load(f"folder:{tmp_path}").train.images[0, 0]
    assert image[:, -1].eq(255).all()
    assert image[:, :-1].eq(0).all()


def test_folder_of_classes_alone_is_divided_80_20(tmp_path):
    for name, count in (("a", 10), ("b", 5), ("c", 2)):
        for i in range(count):
            write(tmp_path / name / f"{i}.png", i)
    images = load(f"folder:{tmp_path}")
    assert torch.bincount(images.train.labels).tolist() == [8, 4, 1]
    assert torch.bincount(images.test.labels).tolist() == [2, 1, 1]
    assert sorted(values(images.train) + values(images.test)) == sorted([*range(10), *range(5), *range(2)])
    assert values(images.test) == values(load(f"folder:{tmp_path}").test)


def test_folder_with_a_single_image_in_a_class(tmp_path):
    write(tmp_path / "a/0.png", 0)
    write(tmp_path / "b/0.png", 0)
    with pytest.raises(UserError, match="a has 1 image"):
        load(f"folder:{tmp_path}")
    with pytest.raises(UserError, match="train/ but no test part"):
        load(f"folder:{tree(tmp_path / 'x', {'train': 1})}")


@pytest.mark.parametrize(("name", "some"), [("cifar10", ["cat", "truck"]), ("cifar100", ["maple_tree", "Lawn Mower"])])
def test_a_set_by_name_is_no_other_one_beside_its_own_folder(tmp_path, name, some):
    tree(tmp_path, {"train": 2, "test": 2}, ("cats", "dogs"))
    said = rf"train/cats is no class of {name}; expected .* of your own with folder:{re.escape(str(tmp_path))}$"
    with pytest.raises(UserError, match=said):
        load(name, root=tmp_path)
    assert load(f"folder:{tmp_path}").classes == ["cats", "dogs"]
    tree(tmp_path / name, {"train": 1, "test": 1}, some)
    assert load(name, root=tmp_path).classes == sorted(some)


def test_cifar_may_lie_in_folders_of_numbers(tmp_path):
    tree(tmp_path / "ten", {"train": 1, "test": 1}, ("0", "9"))
    assert load("cifar10", root=tmp_path / "ten").classes == ["0", "9"]
    tree(tmp_path / "more", {"train": 1, "test": 1}, ("0", "10"))
    with pytest.raises(UserError, match="train/10 is no class of cifar10"):
        load("cifar10", root=tmp_path / "more")


@pytest.mark.parametrize(("name", "test"), [("cifar10", "test"), ("facescrub", "validate")])
def test_the_folder_of_a_set_counts_more_than_its_parent(tmp_path, name, test):
    tree(tmp_path, {"train": 2, test: 2}, ("cat", "dog"))
    tree(tmp_path / name, {"train": 1, test: 1}, ("frog", "truck"))
    assert load(name, root=tmp_path).classes == ["frog", "truck"]


@pytest.mark.parametrize(
    ("name", "classes", "ends"), [("cifar10", 10, "airplane truck"), ("cifar100", 100, "apple worm")]
)
def test_the_names_of_known_classes(name, classes, ends):
    known = importlib.import_module(f"splitveil.data.{name}").CLASSES
    assert (len(known), sorted(set(known))) == (classes, list(known))
    assert [known[0], known[-1]] == ends.split()


def test_facescrub_is_resized(tmp_path):
    tree(tmp_path, {"train": 2, "validate": 1}, size=(64, 50))
    images = load("facescrub", root=tmp_path)
    assert images.train.images.shape == (4, 3, 48, 48)
    assert values(images.test) == [100, 120]


def test_images_that_are_released_are_the_same_again_and_what_was_written_is_kept(tmp_path):
    tree(tmp_path, {"train": 2, "test": 1})
    images = load("cifar10", root=tmp_path).train
    images.images[0] = 7
    expected = images.images.clone()
    images.release()
    assert torch.equal(images.images, expected)
    images.subset(torch.tensor([0])).release()  # a copy is mapped from nothing
