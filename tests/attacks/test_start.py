"""The attack whose answer is where a search begins."""

from __future__ import annotations

import pytest

from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.diffusion import DiffusionAttack
from splitveil.attacks.linear import LinearAttack
from splitveil.attacks.map import MapAttack
from splitveil.attacks.refine import RefineAttack
from splitveil.attacks.residual import ResidualAttack
from splitveil.attacks.rmle import RmleAttack

LEARNED = {"linear": LinearAttack, "decoder": DecoderAttack, "residual": ResidualAttack}
WITHOUT = {DiffusionAttack: "noise", MapAttack: "mean", RefineAttack: "mean", RmleAttack: "grey"}


@pytest.mark.parametrize(("name", "kind"), LEARNED.items())
@pytest.mark.parametrize("search", WITHOUT)
def test_every_search_begins_with_each_of_the_learned_answers(search, name, kind):
    assert type(search(start=name)._first) is kind


@pytest.mark.parametrize(("search", "start"), WITHOUT.items())
def test_a_search_may_begin_without_another_attack(search, start):
    assert search(start=start)._first is None
