"""CIFAR-10 as it is published: through torchvision, damaged, and the real images."""

from __future__ import annotations

import hashlib
import itertools
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from splitveil.data import load
from splitveil.data.base import channel_statistics
from splitveil.errors import UserError

DATA = Path(os.environ.get("SPLITVEIL_TEST_DATA", "data"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SPLITVEIL_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_official_cifar10_through_torchvision(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 3072), dtype=np.uint8)

    def store(name: str, content: dict) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    train = store("data_batch_1", {"data": pixels, "labels": [0, 0, 0, 0, 1, 1, 1, 1]})
    test = store("test_batch", {"data": pixels[:2], "labels": [0, 1]})
    meta = store("batches.meta", {"label_names": ["cat", "dog"]})
    monkeypatch.setattr(CIFAR10, "train_list", [train])
    monkeypatch.setattr(CIFAR10, "test_list", [test])
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    for part, name in itertools.product(("train", "test"), ("cats", "dogs")):  # another set beside it
        other = tmp_path / part / name / "000.png"
        other.parent.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(other)
    for root in (tmp_path, folder):
        images = load("cifar10", root=root, train_size=2)
        assert torch.equal(images.train.images, torch.from_numpy(pixels[[0, 4]]).view(2, 3, 32, 32))
        assert (images.classes, len(images.test)) == (["cat", "dog"], 2)
    (folder / "test_batch").write_bytes(b"")
    with pytest.raises(UserError, match="is damaged or incomplete; remove it, then pass --download"):
        load("cifar10", root=tmp_path)


def test_a_damaged_official_archive_is_not_replaced_silently(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz is damaged or incomplete"):
        load("cifar10", root=tmp_path)


@pytest.mark.skipif(not (DATA / "cifar10" / "train").is_dir(), reason="no real CIFAR-10")
def test_real_cifar10():
    images = load("cifar10", root=DATA, train_size=200, test_size=100)
    assert images.classes[0] == "airplane"
    mean, std = channel_statistics(images.train.images)
    assert mean == pytest.approx(images.mean, abs=0.05)
    assert std == pytest.approx(images.std, abs=0.05)
