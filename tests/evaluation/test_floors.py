"""The ceiling of a useful wire: the error of answering the mean image of the true class."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from splitveil.data import Access, Split
from splitveil.errors import UserError
from splitveil.evaluation import floors
from splitveil.evaluation.floors import class_mean_error, mean_image_error
from splitveil.model import SplitModel
from splitveil.victim import Victim


def split(levels: list[int], labels: list[int]) -> Split:
    """Gray images of one level each."""
    return Split(torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 3), torch.tensor(labels))


def test_each_image_is_answered_by_the_mean_of_its_class():
    own = split([0, 102, 255, 51], [0, 0, 2, 2])
    errors = class_mean_error(own, split([51, 0, 153], [0, 0, 2]), 3)
    assert errors.tolist() == pytest.approx([0, 0.2**2, 0], abs=1e-7)


def test_a_class_that_the_attacker_does_not_have_is_answered_by_the_mean_of_all():
    own, asked = split([0, 102, 204], [0, 0, 2]), split([0, 204], [1, 3])
    assert class_mean_error(own, asked).tolist() == pytest.approx([0.4**2, 0.4**2])
    torch.testing.assert_close(class_mean_error(own, asked), mean_image_error(own, asked))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 12), st.integers(1, 5))
def test_it_is_what_a_loop_over_classes_finds(seed, count, asked, classes):
    rng = torch.Generator().manual_seed(seed)
    own, under = (
        Split(
            torch.randint(256, (n, 3, 2, 2), generator=rng, dtype=torch.uint8),
            torch.randint(classes, (n,), generator=rng),
        )
        for n in (count, asked)
    )
    x, y = own.images / 255, under.images / 255
    expected = []
    for image, label in zip(y, under.labels, strict=True):
        mine = x[own.labels == label]
        expected.append(float((image - (mine if len(mine) else x).mean(0)).square().mean()))
    assert class_mean_error(own, under, classes).tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_the_linear_floor_learns_from_images_of_all_classes(monkeypatch):
    """Images of a folder are sorted by class: the first ones may all be of one."""
    seen: list[Split] = []
    monkeypatch.setattr(floors, "MOST_IMAGES", 20)
    monkeypatch.setattr(floors.LinearAttack, "fit", lambda _, victim, images, rng: seen.append(images))
    monkeypatch.setattr(floors.LinearAttack, "reconstruct", lambda _, wire: torch.zeros(len(wire), 1, 2, 3))
    own = split([0] * 100 + [200] * 100, [0] * 100 + [1] * 100)
    model = SplitModel(nn.Flatten(), nn.Identity(), example=torch.zeros(1, 1, 2, 3))
    victim = Victim(model, frozenset(Access))
    errors = floors.linear_error(victim, own, own.subset(torch.arange(3)), torch.zeros(3, 6), seed=0)
    assert errors is not None
    (few,) = seen
    assert len(few) == 20
    assert 4 <= int(few.labels.sum()) <= 16


def test_more_images_than_a_batch_and_none_at_all():
    levels = [0, 255] * 700
    own = split(levels, [0, 1] * 700)
    assert float(class_mean_error(own, own).max()) == 0
    with pytest.raises(UserError, match="got no images of the attacker; expected at least one"):
        class_mean_error(own.subset(torch.zeros(0, dtype=torch.int64)), own)
    with pytest.raises(UserError, match="got label 1 and 1 classes; expected more classes"):
        class_mean_error(own, own, 1)
