"""Entries that a defense has hidden and noise covers: told by their size where it can be told."""

from __future__ import annotations

import pytest
import torch

import toy
from splitveil.attacks._seen_through import seen_through
from splitveil.attacks._sight import Sight
from splitveil.attacks.base import Victim
from splitveil.attacks.linear import LinearAttack
from splitveil.data import Access
from splitveil.defenses._law import law_of
from splitveil.defenses._waterfilling import Directions, Statistics
from splitveil.defenses._waterfilling_kronecker import Products
from splitveil.defenses.base import Stack
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.waterfill import Waterfill
from splitveil.defenses.waterfill_kronecker import WaterfillKronecker

ALL = frozenset(Access)


@pytest.mark.parametrize(
    ("specs", "covered"),
    [
        (("gaussian:0.5", "dropout:0.5", "gaussian:0.01", "laplace:0.02"), 0.01**2 + 2 * 0.02**2),
        (("dropout:0.5", "gaussian:0.01", "topk:0.5"), None),  # what it hides is visible in another way
        (("dropout:0.5", "gaussian:0.01", "pca:3"), None),
        (("gaussian:0.01", "laplace:0.02"), None),
        (("dropout:0", "gaussian:0.01"), None),
        (("dropout:0.5", "local_dp:epsilon=200,high=2"), 2 * 0.01**2),
        (("dropout:0.5", "local_dp:epsilon=200,high=2", "gaussian:0.01"), 3 * 0.01**2),
        (("dropout:0.5", "gaussian:0.01", "local_dp:epsilon=200,high=2"), 3 * 0.01**2),
        (("dropout:0.5", "local_dp:epsilon=200,low=0.1,high=2.1"), None),  # zeros become 0.1, as all below it
    ],
)
def test_noise_over_hidden_entries_is_that_which_came_after_them(specs, covered):
    model = toy.defended(*(spec for spec in specs if spec != "pca:3"))
    law = law_of(model.defense, model.encode(toy.pixels(toy.images(4, 0)), toy.rng()))
    law = law.silent() if "pca:3" in specs else law
    assert law.covered == (None if covered is None else pytest.approx(covered))


@pytest.mark.parametrize(("spec", "noise"), [("gaussian:0.001", 0.001), ("laplace:0.001", 0.001 * 2**0.5)])
def test_hidden_entries_beneath_weak_noise_are_told_by_their_size(spec, noise):
    """Attacks ignored the mask as soon as any noise followed `dropout`: on trained networks they erred ninefold."""
    model = toy.defended("dropout:0.5", spec)
    victim, x = Victim(model, ALL), toy.pixels(toy.images(200, 9))
    sight = seen_through(victim, victim.observe(toy.images(3000, 1)), toy.rng())
    assert isinstance(sight, Sight)
    assert sight.covariance is not None
    assert sight.variance == pytest.approx(noise**2)
    hidden = Dropout(0.5).on_wire(model.features(x), toy.rng(5)) == 0
    full, mask = sight(victim.query(x, toy.rng(5))).chunk(2, 1)
    assert float((mask.bool() == ~hidden).float().mean()) > 0.99
    model.defense, clean = Stack(Dropout(0.5)), 2 * model.features(x)
    known = seen_through(victim, victim.observe(toy.images(3000, 1)), toy.rng())
    assert known is not None
    best = known(victim.query(x, toy.rng(5))).chunk(2, 1)[0]
    assert float((full - clean)[hidden].square().mean()) < 1.05 * float((best - clean)[hidden].square().mean())


@pytest.mark.parametrize("wide", [False, True])
def test_hidden_entries_in_front_of_faint_water_filled_noise_are_told_by_their_size(wide):
    """Attacks ignored them behind any such noise: `linear` erred more than three times as much as the best attacker."""
    model, weight = toy.model(48, 0.0, (12, 4, 1))
    model.wire_shape = (12, 4, 1)
    covariance = toy.VARIANCE * weight.double() @ weight.double().T + 1e-4 * torch.eye(48)
    center, noise = weight.double() @ torch.full((toy.D,), toy.MEAN).double(), 1e-4
    if wide:
        one, variance = torch.eye(12).double(), torch.full((48,), 0.25).double()
        hardened = WaterfillKronecker(1e6, noise)
        hardened._solve(Products(center, one, torch.eye(4).double(), variance, variance, variance))
    else:
        statistics = Statistics(center, covariance, 1e6 * torch.eye(48).double(), covariance, float(covariance.trace()))
        hardened = Waterfill(1e6, noise)
        hardened._solve(statistics, Directions.of(statistics))
    model.defense = Stack(Dropout(0.2), hardened)
    attack, victim, x = LinearAttack(), Victim(model, ALL), toy.pixels(toy.images(300, 9))
    attack.fit(victim, toy.images(3000, 1), toy.rng())
    error = float((attack.reconstruct(victim.query(x, toy.rng(5))) - x).square().mean())
    shown = Dropout(0.2).on_wire(model.features(x), toy.rng(5)) != 0
    seen = weight.double() * shown.flatten(1).double()[:, :, None]
    inner = seen.mT @ seen / (0.8 * noise) ** 2 + torch.eye(toy.D).double() / toy.VARIANCE
    assert error < 1.05 * float(torch.linalg.inv(inner).diagonal(dim1=1, dim2=2).sum(1).mean()) / toy.D


def test_hidden_entries_that_noise_drowns_are_taken_as_they_are():
    """No multiple of such noise helps on held-out images, and none is made up for images of one kind or few."""
    model = toy.defended("dropout:0.5", "gaussian:1")
    victim = Victim(model, ALL)
    for count in (3, 6, 400):
        assert seen_through(victim, victim.observe(toy.images(count, 1)), toy.rng()) is None


def test_features_of_which_many_are_small_of_themselves_are_taken_as_they_are():
    """Behind a ReLU, zeros are the feature's own, and all but `dropout` of them is no hiding at random."""
    victim = Victim(toy.defended("dropout:0.5", "gaussian:0.001", relu=True), ALL)
    assert seen_through(victim, victim.observe(toy.images(400, 1)), toy.rng()) is None


def test_the_choice_of_a_limit_looks_at_no_more_entries_than_it_must(monkeypatch):
    """Each multiple that is tried costs as much as the covariance of what is looked at."""
    monkeypatch.setattr("splitveil.attacks._seen_through.TRIED", 10)
    model = toy.defended("dropout:0.5", "gaussian:0.001")
    victim, widths = Victim(model, ALL), []
    learn = Sight.learn.__func__  # type: ignore[attr-defined]

    def noted(cls, victim, seen, *more, **named):
        widths.append(seen.wire(torch.tensor([0]), toy.rng()).numel())
        return learn(cls, victim, seen, *more, **named)

    monkeypatch.setattr(Sight, "learn", classmethod(noted))
    sight = seen_through(victim, victim.observe(toy.images(600, 1)), toy.rng())
    assert isinstance(sight, Sight)
    assert widths == [10] * 5 + [48]
    assert sight.covariance is not None
    assert sight.covariance.shape == (48, 48)
