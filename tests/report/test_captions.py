"""What the report says of gains: the title, the margin, and the number of trainings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from splitveil.evaluation.reliability import at_chance
from splitveil.report import captions
from splitveil.results import cem_effect
from splitveil.results.equal_accuracy import Equal
from splitveil.statistics.intervals import Interval


def effect(error: tuple[float, float], accuracy: tuple[float, float], seeds: int = 4) -> cem_effect.CemEffect:
    """An effect with these two intervals, over so many seeds."""
    parts = [Interval(sum(ends) / 2, *ends) for ends in (error, accuracy)]
    return cem_effect.CemEffect(None, None, tuple(range(seeds)), (), (), *parts, (0.01, 0.012), (0.5, 0.5), True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "accuracy", "title"),
    [
        (
            (0.1, 0.2),
            (-0.1, 0.1),
            "CEM raises the attacker’s error in the one comparison; a loss of 1 point of accuracy is not excluded",
        ),
        (
            (0.1, 0.2),
            (-0.009, 0.02),
            "CEM raises the attacker’s error in the one comparison; a loss of 1 point of accuracy is excluded",
        ),
        (
            (0.1, 0.2),
            (-0.2, -0.1),
            "CEM raises the attacker’s error in the one comparison; accuracy falls, a loss of 1 point of accuracy is "
            "not excluded",
        ),
        ((-0.1, 0.2), (-0.2, -0.1), "No effect of CEM on the attacker’s error is shown"),
        ((-0.2, -0.1), (0.1, 0.2), "CEM makes the attack easier in the one comparison"),
    ],
)
def test_the_title_says_what_the_intervals_allow(error, accuracy, title):
    assert captions.headline([], [effect(error, accuracy)]) == title


def test_the_margin_decides_what_is_excluded():
    found = [effect((0.1, 0.2), (-0.009, 0.02))]
    assert captions.headline([], found, 0.5).endswith("a loss of 0.5 points of accuracy is not excluded")
    assert "a loss of 2 points of accuracy is excluded" in captions.cem(found, 2)


@pytest.mark.parametrize("seeds", [1, 2])
def test_of_few_seeds_the_title_speaks_of_these_trainings(seeds):
    found = [effect((0.1, 0.2), (-0.1, 0.1), seeds), effect((-0.2, -0.1), (-0.1, 0.1), seeds)]
    assert captions.headline([], found).startswith(
        "In these trainings the attacker’s error with CEM is higher in 1 of 2 comparisons, lower in 1; a loss of"
    )
    assert captions.headline([], found[1:]).startswith(
        "In these trainings the attacker’s error is lower with CEM; a loss of"
    )


def test_the_title_counts():
    found = [effect((0.1, 0.11), (-0.2, -0.19)), effect((-0.11, -0.1), (0, 0.1)), effect((-0.1, 0.1), (-0.1, 0.1))]
    assert captions.headline([], found) == (
        "CEM raises the attacker’s error in 1 of 3 comparisons, lowers it in 1; accuracy falls in 1 of 3, a loss of "
        "1 point of accuracy is excluded in 1 of 3"
    )
    assert "a rise is shown in 1, a fall in 1" in captions.cem(found)
    assert "correction for the number of comparisons (Holm). A loss of 1 point is excluded in 1." in captions.cem(found)


def test_what_one_interval_shows_need_not_be_shown_among_many():
    barely = effect((0.001, 0.2), (-0.1, 0.1))
    assert captions.shown([barely], "mse") == (1, 0)
    assert captions.shown([barely] * 5, "mse") == (0, 0)


def at_equal(low: float, high: float, seeds: int = 4, p: float = 0.001) -> tuple[cem_effect.CemEffect, Equal]:
    found = effect((0.1, 0.2), (-0.1, 0.1), seeds)
    return found, Equal(found.configuration, tuple(range(seeds)), difference=Interval((low + high) / 2, low, high), p=p)


@pytest.mark.parametrize(
    ("low", "high", "seeds", "p", "title"),
    [
        (0.2, 0.4, 4, 0.001, "The attacker’s error with CEM is 35 % higher than with more noise of equal accuracy"),
        (-0.4, -0.2, 4, 0.001, "The attacker’s error with CEM is 26 % lower than with more noise of equal accuracy"),
        (0.2, 0.4, 1, 0.001, "In these trainings the attacker’s error with CEM is 35 % higher than with more noise of"),
        (-0.1, 0.4, 1, 0.001, "At equal accuracy no difference between CEM and more noise is shown"),
        (0.2, 0.4, 4, 0.2, "At equal accuracy no difference between CEM and more noise is shown"),
    ],
)
def test_one_comparison_is_named_at_equal_accuracy_where_it_can_be(low, high, seeds, p, title):
    found, row = at_equal(low, high, seeds, p)
    assert captions.headline([], [found], equal=[row]).startswith(title)


def test_a_title_says_why_there_is_no_comparison_at_equal_accuracy():
    found = effect((0.1, 0.2), (-0.1, 0.1))
    row = Equal(found.configuration, (0,), why="outside the curve")
    assert captions.headline([], [found], equal=[row]) == (
        "CEM and more noise cannot be compared at equal accuracy here: outside the curve"
    )


@pytest.mark.parametrize(
    ("flagged", "title", "lead"),
    [
        ([True, True], "These networks are not shown to be better than chance", "All 2 networks are not shown"),
        ([True, False], "In these trainings the attacker’s error is higher with CEM", "1 of 2 networks is not shown"),
        ([True], "These networks are not shown to be better than chance", "1 of 1 network is not shown"),
        ([False, False], "In these trainings the attacker’s error is higher with CEM", ""),
    ],
)
def test_nothing_is_concluded_from_networks_at_chance(flagged, title, lead):
    """The flag itself is made by the code that makes it in attacks."""
    (flag,) = at_chance(Interval(0.1, 0.07, 0.14), torch.arange(10).repeat(36))
    attacks = [{"linear": SimpleNamespace(flags=[flag] if one else ["another"])} for one in flagged]
    records = [SimpleNamespace(attacks=of) for of in attacks]
    groups: Any = [SimpleNamespace(configurations=[SimpleNamespace(records=[record]) for record in records])]
    assert captions.headline(groups, [effect((0.1, 0.2), (-0.1, 0.1), seeds=1)]).startswith(title)
    assert captions.chance(groups).startswith(lead)
    assert bool(captions.chance(groups)) == bool(lead)
