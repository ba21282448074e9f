"""Digits, class-balanced selection, statistics, and what a Split refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitveil.data import Split, load
from splitveil.data._select import balanced, held_out, in_proportion, spread
from splitveil.data.base import channel_statistics
from splitveil.errors import UserError

RNG = np.random.default_rng

labels_lists = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(labels=labels_lists, share=st.floats(0, 1), seeded=st.booleans())
def test_balanced_counts_differ_by_one_unless_a_class_runs_out(labels, share, seeded):
    count = round(share * len(labels))
    rng = torch.Generator().manual_seed(0) if seeded else None
    picked = balanced(labels, count, rng)
    assert len(picked) == count
    assert picked.tolist() == sorted(set(picked.tolist()))
    have = torch.bincount(torch.tensor(labels), minlength=5)
    got = torch.bincount(torch.tensor(labels)[picked], minlength=5)
    open_classes = got[got < have]
    if len(open_classes):
        assert got.max() <= open_classes.min() + 1
    if not seeded:
        for label in range(5):
            members = [i for i, value in enumerate(labels) if value == label]
            assert [i for i in picked.tolist() if labels[i] == label] == members[: got[label]]


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5), data=st.data())
def test_spread_takes_exactly_the_asked_number(sizes, data):
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    counts = [data.draw(st.integers(1, size)) for size in sizes]
    mask = spread(labels, counts)
    assert torch.bincount(torch.tensor(labels)[mask], minlength=len(sizes)).tolist() == counts


def test_channel_statistics_equal_numpy():
    images = torch.from_numpy(RNG(1).integers(0, 256, (7, 3, 5, 5), dtype=np.uint8))
    mean, std = channel_statistics(images)
    scaled = images.numpy() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)))
    assert std == pytest.approx(scaled.std((0, 2, 3)))
    assert channel_statistics(torch.zeros(1, 3, 2, 2, dtype=torch.uint8))[1] == pytest.approx([1 / 255] * 3)


def test_split_refuses_wrong_tensors():
    good = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(UserError, match=r"images are torch.float32 .*expected torch.uint8 \(N, 3 or 1, H, W\)"):
        Split(good.float(), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UserError, match=r"images are torch.uint8 \(2, 2, 4, 4\); expected"):
        Split(good[:, :2], torch.zeros(2, dtype=torch.int64))
    with pytest.raises(UserError, match=r"labels are torch.int64 \(3,\); expected torch.int64 \(2,\)"):
        Split(good, torch.zeros(3, dtype=torch.int64))


def test_digits():
    images = load("digits")
    assert (len(images.train), len(images.test), images.size) == (1437, 360, 32)
    assert torch.bincount(images.test.labels).tolist() == [36] * 10
    assert torch.equal(images.train.images[:, 0], images.train.images[:, 2])
    assert images.train.images.max() == 255
    again = load("digits", train_size=25)
    assert torch.bincount(again.train.labels).tolist() == [3] * 5 + [2] * 5


def test_digits_hold_every_image_of_scikit_learn_once():
    from sklearn.datasets import load_digits

    images = load("digits")
    both = torch.cat([images.train.images, images.test.images])[:, 0].float()
    # Bilinear upsampling by 4 gives every pixel the weight 16; rounding is 1e-4, one image 5.6e-4 of the sum.
    raw = load_digits(return_X_y=True)[0].sum() * (255 / 16) * 16
    assert both.double().sum().item() == pytest.approx(raw, rel=2e-4)


def test_digits_are_those_of_scikit_learn_enlarged_in_their_order_with_their_labels():
    from skimage.transform import resize
    from sklearn.datasets import load_digits

    raw, labels = load_digits(return_X_y=True)
    weights = torch.from_numpy(resize(np.eye(8), (32, 8), order=1, mode="edge"))  # bilinear: the same along both axes
    enlarged = weights @ torch.from_numpy(raw).view(-1, 8, 8) @ weights.T * (255 / 16)
    images = load("digits", train_size=25, test_size=20)
    for part in (images.train, images.test):
        apart = (part.images[:, :1].double() - enlarged).abs().amax((2, 3))  # of every image to every digit
        assert apart.amin(1).max() <= 0.51
        found = apart.argmin(1)
        assert part.labels.tolist() == labels[found].tolist()
        assert found.tolist() == sorted(set(found.tolist()))


@given(labels_lists, st.integers(0, 60), st.integers(0, 99))
def test_what_is_held_out_leaves_every_class_its_part(labels, count, seed):
    labels, count = torch.tensor(labels), min(count, len(labels))
    chosen = held_out(labels, count, torch.Generator().manual_seed(seed))
    assert len(chosen) == count
    assert len(chosen.unique()) == count
    sizes = torch.bincount(labels)
    kept = sizes - torch.bincount(labels[chosen], minlength=len(sizes))
    assert bool((kept >= (sizes * (1 - count / len(labels)) - 1) / 2 - 1e-6).all())


@pytest.mark.parametrize(("sizes", "count"), [((10, 2), 6), ((60, 30, *[1] * 10), 10), ((20, 1), 2), ((9, 3, 2), 7)])
def test_a_class_of_one_or_two_images_is_not_held_out_whole(sizes, count):
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    for seed in range(20):
        others = torch.ones(len(labels), dtype=torch.bool)
        others[held_out(labels, count, torch.Generator().manual_seed(seed))] = False
        assert set(labels[others].tolist()) == set(range(len(sizes)))


def test_balanced_images_are_held_out_as_before():
    labels = torch.arange(1000) % 10
    one, other = (choose(labels, 105, torch.Generator().manual_seed(3)) for choose in (held_out, balanced))
    assert torch.equal(one, other)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(0, 10**6), st.data())
def test_a_part_in_proportion_has_the_share_of_each_class(labels, seed, data):
    count = data.draw(st.integers(0, len(labels)))
    labels = torch.tensor(labels)
    chosen = in_proportion(labels, count, torch.Generator().manual_seed(seed))
    assert len(chosen.unique()) == count
    sizes, taken = (torch.bincount(part, minlength=6) for part in (labels, labels[chosen]))
    assert float((taken - sizes * count / len(labels)).abs().max()) < 2


def test_every_image_is_as_likely_in_a_part_in_proportion():
    """Of classes with one image each, the first ones must not always be taken."""
    labels = torch.tensor([0, 1, 2, 3, 4, 5, 5, 5, 5, 5, 5])
    taken = torch.zeros(11)
    for seed in range(3000):
        taken[in_proportion(labels, 4, torch.Generator().manual_seed(seed))] += 1
    assert torch.allclose(taken / 3000, torch.tensor(4 / 11), atol=0.04)


def test_classes_of_equal_size_are_divided_as_balanced_ones():
    labels = torch.arange(200) % 10
    one, other = (choose(labels, 50, torch.Generator().manual_seed(3)) for choose in (in_proportion, balanced))
    assert torch.equal(one, other)
