"""Images that a loader reads anew in each epoch: never all in memory, with the loader's own batches and workers."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate, get_worker_info

import splitveil as sv
from splitveil import given
from splitveil.data.streamed import Streamed
from splitveil.training.feature_buffer import FEATURE_BYTES

X = torch.randint(256, (60, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 3


class Files(Dataset):
    """Images that are made when they are asked for, as of files; it counts how many of them are alive."""

    def __init__(self, count: int = 60, in_worker: bool = False):
        self.count, self.in_worker, self.alive, self.most, self.asked = count, in_worker, 0, 0, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.in_worker and get_worker_info() is None:
            raise RuntimeError("asked in the main process")
        image = X[index % len(X)].clone()
        self.asked += 1
        return image, index % 3

    def collate(self, items: list[Any]) -> list[Tensor]:
        """Stack a batch and watch its images until nobody holds them any more."""
        images, labels = default_collate(items)
        memory = images.numpy().copy()  # which every tensor that shares it keeps alive
        self.alive += len(memory)
        self.most = max(self.most, self.alive)
        weakref.finalize(memory, self._gone, len(memory))
        return [torch.from_numpy(memory), labels]

    def _gone(self, count: int) -> None:
        self.alive -= count


def model(*defenses: str) -> sv.SplitModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.Sigmoid(), nn.Flatten(), nn.Linear(54, 3))
    return sv.split(net, "2", X[:1], defenses=defenses)


def fit(split: sv.SplitModel, data: Any, **settings: Any) -> list[dict[str, Any]]:
    return sv.fit(split, data, progress=False, **settings)


def message(data: Any, **settings: Any) -> str:
    with pytest.raises(sv.UserError) as caught:
        fit(model(), data, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_images_of_a_loader_are_never_all_in_memory():
    """Twenty batches go through a training with a refit in each epoch; no more than three are ever alive."""
    files = Files(200)
    split = model("gaussian:0.1", "cem:4")
    records = fit(split, DataLoader(files, 10, shuffle=True, collate_fn=files.collate), epochs=3)
    gc.collect()
    assert files.most <= 30
    assert files.alive == 0
    assert files.asked == 3 * 200 + 10  # the first batch tells of the sizes
    assert records[-1]["leakage_nats"] > 0
    assert {"task", "cem"} == set(records[-1]["losses"])


def test_one_batch_of_all_images_trains_as_in_memory():
    whole, streamed = model("gaussian:0"), model("gaussian:0")
    settings = {"epochs": 3, "rotate": 0, "lr": 0.05}
    fit(whole, (X, Y), batch_size=60, **settings)
    loader = DataLoader(TensorDataset(X, Y), 60)
    records = fit(streamed, loader, validate=loader, **settings)
    for ours, theirs in zip(streamed.state_dict().values(), whole.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    accuracy = float((whole(X.float() / 255, torch.Generator().manual_seed(0)).argmax(1) == Y).float().mean())
    assert records[-1]["accuracy_val"] == pytest.approx(accuracy)


def test_transforms_are_drawn_anew_in_each_epoch_and_follow_the_seed():
    class Noisy(Files):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            image, label = super().__getitem__(index)
            drawn.append(float(torch.rand(())))
            return image, label

    runs, state = [], torch.get_rng_state()
    for seed in (1, 1, 2):
        drawn: list[float] = []
        fit(model(), DataLoader(Noisy(), 20, shuffle=True), epochs=2, seed=seed)
        runs.append(drawn[20:])  # after the first batch, which is only looked at
    assert runs[0] == runs[1] != runs[2]
    assert runs[0][:60] != runs[0][60:]
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_of_a_loader_read():
    split = model()
    loader = DataLoader(Files(40, in_worker=True), 20, num_workers=1)
    assert len(fit(split, loader, epochs=1)) == 1
    with pytest.raises(RuntimeError, match="main process"):
        fit(split, DataLoader(Files(40, in_worker=True), 20), epochs=1)


def test_a_data_set_beyond_its_share_of_the_memory_is_a_stream(monkeypatch):
    files = Files()
    assert not isinstance(given.training_images_of(files, "data", 8), Streamed)
    monkeypatch.setattr(given, "capacity", lambda: 4 * 60 * 432 - 1)
    stream = given.training_images_of(files, "data", 8)
    assert isinstance(stream, Streamed)
    assert (len(stream), stream.batches, len(stream.first)) == (60, 8, 8)
    assert len(fit(model("gaussian:0.1", "cem:4"), files, epochs=2, batch_size=8)) == 2
    # Ten million images have a length, and nobody asks for more than a few of them.
    assert len(given.training_images_of(Files(10**7), "data", 8)) == 10**7  # type: ignore[arg-type]


@pytest.mark.parametrize("refit", ["pass", "augmented"])
def test_refits_with_a_pass_of_their_own_see_a_part_of_the_stream(refit, monkeypatch):
    """A wire of which half of the images' features fit: always the same half, whatever the epoch."""
    monkeypatch.setattr("splitveil.training.feature_buffer.FEATURE_BYTES", 4 * 54 * 30)
    assert FEATURE_BYTES > 4 * 54 * 30
    split, rows = model("gaussian:0.1", f"cem:weight=4,refit={refit}"), []
    cem = list(split.defense)[1]  # type: ignore[call-overload]
    learn = type(cem).refit

    def spy(self: Any, epoch: int, features: Any) -> None:
        z, y = features.extract(refit == "augmented")
        rows.append((z, y))
        learn(self, epoch, features)

    monkeypatch.setattr(type(cem), "refit", spy)
    fit(split, DataLoader(TensorDataset(X, Y), 20), epochs=2, rotate=20)
    assert [len(z) for z, _ in rows] == [30, 30]
    assert torch.equal(rows[0][1], rows[1][1])


def test_a_last_batch_of_one_image_is_left_out():
    """Batch norm over images alone needs two."""
    net = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.BatchNorm1d(54), nn.Linear(54, 3))
    assert len(fit(sv.split(net, "1", X[:1]), DataLoader(TensorDataset(X[:41], Y[:41]), 20), epochs=1)) == 1


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(X[i], Y[i]) for i in range(20)])


def test_a_loader_without_a_length_is_read_once():
    assert len(given.training_images_of(DataLoader(Endless(), 5), "data", 8)) == 20


class Once:
    """A sampler that can be gone through only once more."""

    def __init__(self) -> None:
        self.turns = 0

    def __iter__(self) -> Any:
        self.turns += 1
        return iter(range(20) if self.turns < 3 else ())

    def __len__(self) -> int:
        return 20


def other_shapes(items: list[Any]) -> list[Tensor]:
    images, labels = default_collate(items)
    return [images if int(labels[0]) == 0 else images[..., :6], labels]


@pytest.mark.parametrize(
    ("data", "settings", "expected"),
    [
        (DataLoader(TensorDataset(X, Y), 20), {"batch_size": 30}, "the loader gives batches of 20; leave it out"),
        (DataLoader(TensorDataset(X, Y), 1), {}, "data gives batches of 1 image; expected at least 2"),
        (DataLoader(TensorDataset(X[:1], Y[:1]), 8), {}, "data gives batches of 1 image; expected at least 2"),
        (DataLoader(TensorDataset(X, Y + (Y == 2)), 2), {}, "data has the label 3, the network has 3 outputs"),
        (DataLoader(TensorDataset(X, Y), 1, collate_fn=other_shapes), {}, "batches of 1 image"),
        (DataLoader(TensorDataset(X, Y), 2, sampler=range(0, 60), collate_fn=other_shapes), {}, "images of shapes"),
        (DataLoader(TensorDataset(X, Y), 20, sampler=Once()), {}, "no batch of 2 images or more in epoch 2"),  # type: ignore[arg-type]
        (DataLoader(TensorDataset(X.float(), Y), 20), {}, "write x / 255"),
        (DataLoader(TensorDataset(X[:, :1], Y), 20), {}, "have shape (1, 12, 12), the model was made for (3, 12, 12)"),
        (DataLoader(TensorDataset(X, Y, Y), 20), {}, "data yields 3 parts for an image"),
    ],
)
def test_loaders_that_do_not_fit_are_refused(data, settings, expected):
    assert expected in message(data, epochs=3, **settings)
