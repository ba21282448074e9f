"""TinyImageNet: its official layout, and those in which scripts leave it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splitveil.data import Split, load
from splitveil.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path_factory.mktemp("cache")))


def write(path: Path, value: int, size: tuple[int, int]) -> None:
    """An image of one gray value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


def values(split: Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


def tiny(root: Path) -> Path:
    for wnid, value in (("n2", 20), ("n1", 10)):
        for i in range(2):
            write(root / f"train/{wnid}/images/{wnid}_{i}.JPEG", value + i, (64, 64))
        (root / f"train/{wnid}/{wnid}_boxes.txt").write_text("")
    write(root / "val/images/val_0.JPEG", 120, (64, 64))
    write(root / "val/images/val_1.JPEG", 110, (64, 64))
    lines = "val_0.JPEG\tn2\t0\t0\t1\t1\nval_1.JPEG\tn1\t0\t0\t1\t1\nval_9.JPEG\tn9\t0\t0\t1\t1\n"
    (root / "val/val_annotations.txt").write_text(lines)
    (root / "wnids.txt").write_text("n2\nn9\nn1\n")
    (root / "words.txt").write_text("n1\tcrane, bird\nn2\tcrane, machine\nn3\tother\n")
    return root


@pytest.mark.parametrize("inside", ["", "tiny-imagenet-200"])
def test_tinyimagenet_with_part_of_the_classes(tmp_path, inside):
    tiny(tmp_path / inside)
    images = load("tinyimagenet", root=tmp_path)
    assert images.classes == ["crane, bird", "crane, machine"]
    assert values(images.train) == [10, 11, 20, 21]
    assert values(images.test) == [110, 120]
    assert images.test.labels.tolist() == [0, 1]


def test_tinyimagenet_names_a_missing_image_and_a_bad_line(tmp_path):
    tiny(tmp_path)
    (tmp_path / "val/images/val_1.JPEG").unlink()
    with pytest.raises(UserError, match=r"cannot read .*val_1\.JPEG"):
        load("tinyimagenet", root=tmp_path)
    (tmp_path / "val/val_annotations.txt").write_text("val_0.JPEG n2\n")
    with pytest.raises(UserError, match=r"line 1 is 'val_0.JPEG n2'; expected file<TAB>wnid"):
        load("tinyimagenet", root=tmp_path)


def test_tinyimagenet_says_which_images_no_line_names(tmp_path, caplog):
    tiny(tmp_path)
    annotations = tmp_path / "val/val_annotations.txt"
    lines = annotations.read_text().splitlines()
    annotations.write_text("\n".join(lines[1:]) + "\n")
    assert values(load("tinyimagenet", root=tmp_path).test) == [110]
    assert "1 image(s) that val_annotations.txt lacks" in caplog.text
    caplog.clear()
    annotations.write_text("\n".join(lines) + "\n")
    load("tinyimagenet", root=tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("again", ["val_0.JPEG\tn2", "val_0.JPEG\tn1", "val_9.JPEG\tn9"])
def test_tinyimagenet_that_lists_an_image_twice_is_refused(tmp_path, again):
    tiny(tmp_path)
    with (tmp_path / "val/val_annotations.txt").open("a") as file:
        file.write(f"{again}\t0\t0\t1\t1\n")
    first = {"val_0": 1, "val_9": 3}[again[:5]]
    with pytest.raises(UserError, match=rf"lists {again[:10]} in lines {first} and 4; expected each image once"):
        load("tinyimagenet", root=tmp_path)


SORTED = {
    "as published": "val/images/{wnid}/{name}",
    "classes in val": "val/{wnid}/{name}",
    "classes as in train": "val/{wnid}/images/{name}",
}


@pytest.mark.parametrize("annotations", [True, False])
@pytest.mark.parametrize("place", SORTED.values(), ids=list(SORTED))
def test_tinyimagenet_with_val_sorted_into_classes(tmp_path, place, annotations):
    tiny(tmp_path)
    expected = load("tinyimagenet", root=tmp_path).test
    for name, wnid in (("val_0.JPEG", "n2"), ("val_1.JPEG", "n1")):
        target = tmp_path / place.format(wnid=wnid, name=name)
        target.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "val/images" / name).rename(target)
    if not annotations:
        (tmp_path / "val/val_annotations.txt").unlink()
    if not any((tmp_path / "val/images").iterdir()):
        (tmp_path / "val/images").rmdir()
    found = load("tinyimagenet", root=tmp_path).test
    assert found.digest() == expected.digest()
    assert found.labels.tolist() == expected.labels.tolist()


def test_tinyimagenet_with_flat_training_folders(tmp_path):
    tiny(tmp_path)
    expected = load("tinyimagenet", root=tmp_path).train.digest()
    for path in list(tmp_path.glob("train/*/images/*")):
        path.rename(path.parents[1] / path.name)
    for path in tmp_path.glob("train/*/images"):
        path.rmdir()
    assert load("tinyimagenet", root=tmp_path).train.digest() == expected


def test_tinyimagenet_of_which_half_is_sorted_is_refused(tmp_path):
    tiny(tmp_path)
    (tmp_path / "val/images/n2").mkdir()
    (tmp_path / "val/images/val_0.JPEG").rename(tmp_path / "val/images/n2/val_0.JPEG")
    with pytest.raises(UserError, match=r"images both in .*val/images/<wnid>/ and beside it"):
        load("tinyimagenet", root=tmp_path)


def test_tinyimagenet_of_which_sorted_copies_were_made_is_read_as_it_was(tmp_path):
    tiny(tmp_path)
    expected = load("tinyimagenet", root=tmp_path).test.digest()
    for name, wnid in (("val_0.JPEG", "n2"), ("val_1.JPEG", "n1")):
        (tmp_path / "val/images" / wnid).mkdir()
        shutil.copy(tmp_path / "val/images" / name, tmp_path / "val/images" / wnid / name)
    assert load("tinyimagenet", root=tmp_path).test.digest() == expected


def test_tinyimagenet_says_which_classes_it_skips(tmp_path, caplog):
    tiny(tmp_path)
    write(tmp_path / "train/n7/images/n7_0.JPEG", 5, (64, 64))
    assert len(load("tinyimagenet", root=tmp_path).train) == 4
    assert "1 folder(s) that wnids.txt lacks" in caplog.text
