"""The nearest-image attack against brute force, and what averaging several looks is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from splitveil import metrics
from splitveil.attacks import nearest as module
from splitveil.attacks.base import Victim
from splitveil.attacks.nearest import NearestAttack, nearest
from splitveil.data import Access, load, to_float
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import UserError
from splitveil.model import SplitModel

IMAGES = load("digits", train_size=200, test_size=40)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def victim(sigma: float) -> Victim:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Conv2d(3, 2, 8, 8)
    return Victim(SplitModel(encoder, nn.Flatten(), defense=Gaussian(sigma)), frozenset({Access.QUERY}))


@pytest.mark.parametrize("rows", [7, 4096])
@pytest.mark.parametrize("count", [1, 3])
def test_neighbors_are_those_of_brute_force(monkeypatch, rows, count):
    monkeypatch.setattr(module, "ROWS", rows)
    query, known = torch.randn(9, 5, generator=rng(1)), torch.randn(40, 5, generator=rng(2))
    distance = ((query.numpy()[:, None] - known.numpy()[None]) ** 2).sum(-1)
    expected = np.argsort(distance, axis=1)[:, :count]
    assert np.array_equal(nearest(query, known, count).numpy(), expected)


def test_neighbors_far_from_zero():
    """Where the expanded square cancels, differences do not."""
    known = 1e4 + torch.tensor([[0.0], [0.01], [0.5]])
    assert nearest(torch.tensor([[1e4 + 0.4]]), known, 1).item() == 2


def test_an_own_image_is_found_again():
    attack, seen = NearestAttack(looks=1), victim(0.0)
    attack.fit(seen, IMAGES.train, rng())
    truth = to_float(IMAGES.train.images[:50])
    assert torch.equal(attack.reconstruct(seen.query(truth, rng(1))), truth)


def test_the_mean_of_all_neighbors_is_the_mean_image():
    attack, seen = NearestAttack(neighbors=200, looks=1), victim(0.1)
    attack.fit(seen, IMAGES.train, rng())
    found = attack.reconstruct(seen.query(to_float(IMAGES.test.images[:2]), rng(1)))
    mean = to_float(IMAGES.train.images).mean(0).expand_as(found)
    torch.testing.assert_close(found, mean)


def test_looks_average_the_noise_out():
    seen, truth = victim(0.4), to_float(IMAGES.train.images)
    wire = seen.query(truth, rng(1))
    hits = {}
    for looks in (1, 16):
        attack = NearestAttack(looks=looks)
        attack.fit(seen, IMAGES.train, rng())
        hits[looks] = int((metrics.mse(attack.reconstruct(wire), truth) == 0).sum())
        clean = seen._model.features(truth).detach().flatten(1)
        assert float((attack.known - clean).std()) == pytest.approx(0.4 / looks**0.5, rel=0.05)
    assert hits[16] > 1.3 * hits[1]


def test_bad_settings():
    with pytest.raises(UserError, match="nearest: neighbors is 0; expected"):
        NearestAttack(neighbors=0)
    with pytest.raises(UserError, match="looks is 0; expected a whole number from 1 to 1000"):
        NearestAttack(looks=0)
    with pytest.raises(UserError, match="nearest: the attacker has 200 images; expected at least 201"):
        NearestAttack(neighbors=201).fit(victim(0.1), IMAGES.train, rng())
