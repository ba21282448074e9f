"""Protocols: who has which images."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitveil.data import Access, ImageSet, Protocol, Split, protocol
from splitveil.data.protocol import PROTOCOLS, contained
from splitveil.errors import UserError

PARTS = ("defender_train", "utility_val", "utility_test", "attacker_train", "attacker_test")


def numbered(start: int, count: int, classes: int = 4, size: int = 4) -> Split:
    """Images that hold their own number, sorted by class."""
    numbers = torch.arange(start, start + count)
    images = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    images[:, 0, 0, 0] = (numbers // 256).to(torch.uint8)
    images[:, 0, 0, 1] = (numbers % 256).to(torch.uint8)
    return Split(images, torch.arange(count) * classes // count)


def numbers(split: Split) -> list[int]:
    return (split.images[:, 0, 0, 0].long() * 256 + split.images[:, 0, 0, 1]).tolist()


def image_set(train: int = 400, test: int = 80, size: int = 4) -> ImageSet:
    parts = numbered(0, train, size=size), numbered(10_000, test, size=size)
    return ImageSet("numbers", *parts, list("abcd"), (0.5,) * 3, (0.5,) * 3, size)


def balance(split: Split) -> int:
    counts = torch.bincount(split.labels, minlength=4)
    return int(counts.max() - counts.min())


def test_train_time():
    p = protocol("train_time", image_set())
    assert [len(getattr(p, part)) for part in PARTS] == [360, 40, 80, 360, 80]
    assert numbers(p.attacker_train) == numbers(p.defender_train)
    assert numbers(p.attacker_test) == numbers(p.utility_test) == list(range(10_000, 10_080))


def test_inference_time():
    p = protocol("inference_time", image_set())
    assert [len(getattr(p, part)) for part in PARTS] == [360, 40, 80, 72, 8]
    assert sorted(numbers(p.attacker_train) + numbers(p.attacker_test)) == numbers(p.utility_test)
    # Not the last slice of a class-sorted set: every class is in both parts.
    assert balance(p.attacker_train) == balance(p.attacker_test) == 0


def test_auxiliary_takes_images_that_the_defender_never_uses():
    p = protocol("auxiliary", image_set())
    assert [len(getattr(p, part)) for part in PARTS] == [180, 40, 80, 180, 80]
    assert sorted(numbers(p.defender_train) + numbers(p.utility_val) + numbers(p.attacker_train)) == list(range(400))


@pytest.mark.parametrize("name", PROTOCOLS)
@given(train=st.integers(40, 120), test=st.integers(40, 80), seed=st.integers(0, 2**31))
def test_invariants(name, train, test, seed):
    images = image_set(train, test)
    p = protocol(name, images, seed=seed)
    assert not set(numbers(p.defender_train)) & set(numbers(p.utility_val))
    assert not set(numbers(p.attacker_train)) & set(numbers(p.attacker_test))
    assert not set(numbers(p.attacker_test)) & set(numbers(p.defender_train) + numbers(p.utility_val))
    for part in PARTS:
        split = getattr(p, part)
        source = images.train if numbers(split)[0] < 10_000 else images.test
        at = torch.tensor(numbers(split)) % 10_000
        assert torch.equal(split.labels, source.labels[at])
    assert balance(p.utility_val) <= 1
    again = protocol(name, images, seed=seed)
    assert all(numbers(getattr(p, part)) == numbers(getattr(again, part)) for part in PARTS)


def test_the_seed_divides_differently_and_val_is_the_same_for_all_protocols():
    images = image_set()
    val = [numbers(protocol(name, images, seed=1).utility_val) for name in PROTOCOLS]
    assert val[0] == val[1] == val[2]
    assert numbers(protocol("train_time", images, seed=2).utility_val) != val[0]


def test_utility_val_has_at_most_5000_images():
    labels = torch.arange(60_000) % 10
    pixels = torch.stack([torch.arange(60_000) // 256, torch.arange(60_000) % 256, 0 * labels], 1).to(torch.uint8)
    big = Split(pixels[:, :, None, None], labels)
    test = Split(torch.ones(100, 3, 1, 1, dtype=torch.uint8), labels[:100])
    images = ImageSet("big", big, test, [str(i) for i in range(10)], (0.5,) * 3, (0.5,) * 3, 1)
    assert len(protocol("train_time", images).utility_val) == 5000


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_rare_class_is_in_every_part_that_learns(name):
    """Equal parts of every class would give all of a rare one to the images that validate, or that are attacked."""
    sizes, tested = [900, 40, 900], [200, 12, 200]
    images = image_set(sum(sizes), sum(tested))
    for split, counts in ((images.train, sizes), (images.test, tested)):
        split.labels[:] = torch.arange(3).repeat_interleave(torch.tensor(counts))
    parts = protocol(name, dataclasses.replace(images, classes=list("abc")))
    for part in ("defender_train", "attacker_train"):
        rare = getattr(parts, part).labels == 1
        assert 0.5 < int(rare.sum()) / len(rare) / (52 / 2252) < 2
    assert int((parts.utility_val.labels == 1).sum()) in (3, 4, 5)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_defender_learns_from_no_image_that_validates_or_tests(name):
    images = image_set()
    images.test.images[:30] = images.train.images[:30]
    images.train.images[-40:] = images.train.images[-80:-40]
    parts = protocol(name, images)
    for others in (parts.utility_test, parts.utility_val):
        assert not contained(parts.defender_train.images, others.images).any()
    assert len(parts.defender_train) > 100


def test_attacker_test_size_keeps_the_attacker_and_balances():
    images = image_set()
    whole, part = protocol("inference_time", images), protocol("inference_time", images, attacker_test_size=4)
    assert numbers(part.attacker_train) == numbers(whole.attacker_train)
    assert set(numbers(part.attacker_test)) < set(numbers(whole.attacker_test))
    assert torch.bincount(part.attacker_test.labels).tolist() == [1, 1, 1, 1]
    for size in (0, 9):
        with pytest.raises(UserError, match=rf"attacker test size {size}: protocol inference_time has 8 images"):
            protocol("inference_time", images, attacker_test_size=size)


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("size", [4, 5])  # 48 bytes: compared eight at a time; 75: one at a time
def test_duplicates_are_dropped_from_the_attacker(name, size):
    images = image_set(size=size)
    images.train.images[::3] = images.test.images[0]
    images.test.images[1:] = images.test.images[0]
    images.test.images[::2] = numbered(10_000, 80, size=size).images[::2]
    p = protocol(name, images)
    assert not contained(p.attacker_train.images, p.attacker_test.images).any()
    assert len(p.attacker_train) > 0
    if name == "auxiliary":
        assert not contained(p.attacker_train.images, p.defender_train.images).any()


def test_auxiliary_drops_what_the_defender_has_too():
    """Every training image is there twice, so that many have one copy on either side."""
    images = image_set()
    images.train.images[1::2] = images.train.images[::2]
    p = protocol("auxiliary", images)
    known = torch.cat([p.defender_train.images, p.utility_val.images])
    assert not contained(p.attacker_train.images, known).any()
    assert 0 < len(p.attacker_train) < 150


def test_own_protocol_with_overlap_is_an_error():
    p = protocol("train_time", image_set())
    mixed = p.attacker_test.subset(torch.tensor([3, 5]))
    with pytest.raises(UserError, match="attacker_train and attacker_test share 2 images; expected none"):
        dataclasses.replace(p, attacker_train=mixed)


def test_too_few_images():
    with pytest.raises(UserError, match="protocol train_time: utility_val is empty; load more images"):
        protocol("train_time", image_set(train=4))


def test_unknown_name():
    with pytest.raises(UserError, match="unknown protocol 'inference-time'; did you mean 'inference_time'"):
        protocol("inference-time", image_set())


def test_grants_can_be_restricted():
    p = protocol("train_time", image_set())
    assert Access.QUERY in p.grants
    assert dataclasses.replace(p, grants=frozenset({Access.QUERY})).grants == {Access.QUERY}
    assert isinstance(p, Protocol)


@given(data=st.lists(st.integers(0, 3), min_size=2, max_size=12), cut=st.integers(1, 11))
def test_contained_equals_the_definition(data, cut):
    images = torch.tensor(data, dtype=torch.uint8)[:, None, None, None].repeat(1, 3, 2, 2)
    ours, theirs = images[:cut], images[cut:]
    if len(theirs):
        expected = [any(torch.equal(a, b) for b in theirs) for a in ours]
        assert contained(ours, theirs).tolist() == expected


def test_equal_fingerprints_of_different_pixels_do_not_count(monkeypatch):
    from splitveil.data.protocol import fingerprints

    monkeypatch.setitem(fingerprints.__globals__, "fingerprints", lambda x: torch.zeros(len(x), dtype=torch.int64))
    assert contained(numbered(0, 5).images, numbered(3, 4).images).tolist() == [False] * 3 + [True] * 2
