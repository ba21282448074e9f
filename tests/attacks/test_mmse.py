"""Every trained attack on the linear-Gaussian problem: within 5 % of the best possible error, and never below it."""

from __future__ import annotations

import pytest
import torch

import toy
from splitveil import metrics
from splitveil.attacks.base import Victim
from splitveil.config import Spec
from splitveil.data import Access
from splitveil.statistics import intervals
from toy import rng

SIGMA = 0.05
NETWORK = "network=affine,weight_decay=0"
ATTACKS = [
    "linear",
    f"decoder:epochs=5,lr=0.02,batch_size=64,{NETWORK}",
    f"confidence:epochs=6,lr=0.02,batch_size=128,{NETWORK}",  # the toy's answers are its wire
    f"gan:epochs=1,warm_epochs=9,critic_steps=5,width=4,batch_size=32,{NETWORK}",
    "residual:epochs=3,channels=16",
    "rmle:steps=100,start=mean,lr=0.02,draws=2,tuning=8",
    "rmle:steps=100,start=linear,lr=0.02,draws=2,tuning=8",
]


@pytest.fixture(scope="module")
def problem():
    model, weight = toy.model(48, SIGMA, (12, 2, 2))
    victim, truth = Victim(model, frozenset(Access)), toy.pixels(toy.images(1000, 2))
    return victim, truth, victim.query(truth, rng(3)), weight


@pytest.mark.parametrize("text", ATTACKS)
@pytest.mark.usefixtures("affine_decoder")
def test_within_five_percent_of_the_mmse_and_not_below(problem, text):
    victim, truth, wire, weight = problem
    attack = Spec.model_validate(text).resolve("attacks").make("attacks")
    attack.fit(victim, toy.images(4000, 1), rng())
    with torch.no_grad():
        found = metrics.mse(attack.reconstruct(wire), truth)
    best = metrics.mse(toy.posterior_mean(weight, wire, SIGMA), truth)
    assert float(found.mean()) < 1.05 * float(best.mean())
    assert intervals.paired_difference(found, best).hi > 0
    interval = intervals.bootstrap_ci(found)
    assert interval.hi > toy.mmse(weight, SIGMA)
    assert toy.mmse(weight, SIGMA) < 0.5 * toy.VARIANCE  # the wire says something
