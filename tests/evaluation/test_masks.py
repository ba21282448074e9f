"""Flags of attacks that do not tell which entries are hidden at random, and of none where they do."""

from __future__ import annotations

import pytest

import toy
from splitveil.attacks.base import Victim
from splitveil.config import Spec
from splitveil.data import Access
from splitveil.evaluation.masks import of_masks
from splitveil.model import SplitModel

ALL = frozenset(Access)


def flags(model: SplitModel, attack: str, observed: int = 1) -> list[str]:
    made = Spec.model_validate(attack).resolve("attacks").make("attacks")
    return of_masks(model, Victim(model, ALL, observed), made, toy.images(40, 1))


COVERED = ("dropout:0.5", "gaussian:0.001")


@pytest.mark.parametrize(
    ("specs", "relu", "attack", "observed"),
    [
        (COVERED, False, "refine", 1),  # has no model of the wire
        (COVERED, False, "linear", 3),  # the mean of several wires
        (COVERED, True, "linear", 1),  # the feature's own small entries look hidden
        (("gaussian:0.03", "dropout:0.2", "laplace:0.001"), False, "map", 1),
    ],
)
def test_hidden_entries_that_noise_covers_are_flagged_where_they_are_not_told(specs, relu, attack, observed):
    (flag,) = flags(toy.defended(*specs, relu=relu), attack, observed)
    assert "does not tell which entries the defense has hidden beneath its noise" in flag


@pytest.mark.parametrize("attack", ["refine", "rmle"])
def test_zeros_of_the_feature_that_count_as_hidden_are_flagged(attack):
    (flag,) = flags(toy.defended("dropout:0.5", relu=True), attack)
    assert "takes zeros of the feature itself for entries that the defense has hidden" in flag


@pytest.mark.parametrize(
    ("specs", "relu", "attack"),
    [
        *((COVERED, False, attack) for attack in ("linear", "decoder", "residual", "gan", "nearest")),
        (("dropout:0.5", "gaussian:1"), False, "refine"),  # nobody can tell
        (("gaussian:0.1",), True, "refine"),
        (("dropout:0.5",), False, "refine"),
        (("dropout:0.5",), True, "linear"),  # its zeros are the wire's: a mask beside it
        (("topk:0.5",), True, "refine"),  # hidden by rule
        (("gaussian:0.01", "dropout:0.5"), True, "refine"),  # the noise fills the zeros
    ],
)
def test_nothing_is_flagged_where_the_mask_is_told_or_cannot_be(specs, relu, attack):
    assert flags(toy.defended(*specs, relu=relu), attack) == []
