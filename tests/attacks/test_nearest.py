"""The nearest-image attack against brute force, and what averaging several looks is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from splitveil import metrics
from splitveil.attacks import _compared
from splitveil.attacks._compared import nearest
from splitveil.attacks.base import Victim
from splitveil.attacks.nearest import NearestAttack
from splitveil.config import Spec
from splitveil.data import Access, load, to_float
from splitveil.defenses.base import Stack
from splitveil.defenses.cloak import Cloak
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.vib import VIB
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
    monkeypatch.setattr(_compared, "ROWS", rows)
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


def defended(*specs: str) -> Victim:
    """Digits behind a small encoder, whose noise is uneven where it can be."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Sigmoid(), nn.AvgPool2d(2))
        stack = Stack(*(Spec.model_validate(spec).resolve("defenses").make("defenses") for spec in specs))
        model = SplitModel(encoder, nn.Flatten(), defense=stack, example=to_float(IMAGES.train.images[:1]))
    for part in stack:
        if isinstance(part, Cloak):
            part.rho.data = torch.where(torch.rand(part.rho.shape, generator=rng(3)) < 0.5, -3.0, 3.0)
        if isinstance(part, VIB):
            part.log_sigma.bias = nn.Parameter(torch.tensor([0.0, -4.0]))
    return Victim(model, frozenset({Access.QUERY}))


@pytest.mark.parametrize(
    "specs",
    [
        ("dropout:0.5",),
        ("shredder:scale=0.1,size=5",),
        ("shredder:scale=0.1,size=5", "dropout:0.3"),
        ("dropout:0.5", "gaussian:0.01"),
        ("cloak:low=0.025,high=1",),
        ("vib:0.001",),
    ],
)
def test_an_own_image_is_found_behind_what_the_attacker_knows_of_the_defense(specs):
    """None of 100 was found behind these, and answers had twice the error of the mean image."""
    attack, seen, truth = NearestAttack(), defended(*specs), to_float(IMAGES.train.images[:50])
    attack.fit(seen, IMAGES.train, rng())
    found = attack.reconstruct(seen.query(truth, rng(1)))
    assert float((metrics.mse(found, truth) == 0).float().mean()) > 0.6
    other = to_float(IMAGES.test.images)
    error = metrics.mse(attack.reconstruct(seen.query(other, rng(1))), other).mean()
    assert error < 0.5 * metrics.mse(truth.mean(0).expand_as(other), other).mean()


@pytest.mark.parametrize("specs", [("gaussian:0.05",), ("laplace:0.05",), ("dropout:0.5",)])
def test_an_answer_does_not_depend_on_the_other_wires(specs):
    attack, seen = NearestAttack(neighbors=2, looks=2), defended(*specs)
    attack.fit(seen, IMAGES.train, rng())
    wire = seen.query(to_float(IMAGES.test.images[:6]), rng(1))
    alone = torch.cat([attack.reconstruct(one) for one in wire.split(1)])
    assert torch.equal(attack.reconstruct(wire), alone)


def test_equal_noise_is_compared_as_before():
    """Nothing is drawn for a choice, so that the figures of such wires stay what they were."""
    attack, seen, drawn = NearestAttack(looks=2), victim(0.2), rng()
    attack.fit(seen, IMAGES.train, drawn)
    again, expected = seen.observe(IMAGES.train), rng()
    looks = [again.wire(torch.arange(200), expected).flatten(1) for _ in range(2)]
    assert torch.equal(attack.known, torch.stack(looks).mean(0))
    assert torch.equal(drawn.get_state(), expected.get_state())


def test_what_small_entries_hide_is_compared_whole():
    """That an entry is not among the largest says something: it is no entry that chance has hidden."""
    attack, seen = NearestAttack(), defended("topk:0.3")
    attack.fit(seen, IMAGES.train, rng())
    truth = to_float(IMAGES.train.images[:50])
    assert torch.equal(attack.reconstruct(seen.query(truth, rng(1))), truth)


def test_all_images_as_neighbors_leave_none_to_choose_by():
    attack, seen = NearestAttack(neighbors=200, looks=1), defended("dropout:0.5")
    attack.fit(seen, IMAGES.train, rng())
    assert len(attack.reconstruct(seen.query(to_float(IMAGES.test.images[:2]), rng(1)))) == 2
