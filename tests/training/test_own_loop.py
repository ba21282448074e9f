"""Training loops of one's own: the defenses act, or say why they cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitveil.defenses.base import Defense
from splitveil.defenses.cem import CEM
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.pca import PCA
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.training.own_loop import OwnLoop

X, Y = torch.rand(40, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4


def model(*defenses: Defense) -> SplitModel:
    network = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(16, 4))
    return SplitModel.cut(network, "1", X[:1], defense=defenses)


def epoch(loop: OwnLoop, optimizer: torch.optim.Optimizer) -> None:
    for index in torch.arange(len(X)).split(10):
        optimizer.zero_grad()
        loop.loss(X[index], Y[index]).backward()
        optimizer.step()


def test_cem_acts_from_the_second_epoch_on_the_features_of_the_first():
    made = model(Gaussian(0.1), CEM(16, clusters=1))
    loop = OwnLoop(made, epochs=2, images=len(X))
    optimizer = torch.optim.SGD(loop.parameters(), 0.0)  # the network stays: the features are known
    epoch(loop, optimizer)
    loop.end_epoch()
    assert list(loop.losses) == ["task"]
    cem = made.defense.parts[1]  # type: ignore[union-attr, index]
    with torch.no_grad():
        z = made.features(X).flatten(1)
    expected = torch.stack([z[c == Y].mean(0) for c in range(4)])
    torch.testing.assert_close(cem.centers[:, 0], expected, atol=1e-5, rtol=0)  # type: ignore[union-attr, index]
    epoch(loop, optimizer)
    loop.end_epoch()
    assert loop.losses["cem"] > 0


@pytest.mark.parametrize("defense", [CEM(16), PCA(2)])
def test_a_defense_that_was_never_refitted_says_so(defense):
    """A loop that calls the hooks by itself and forgets one of them."""
    loop = OwnLoop(model(Gaussian(0.1), defense), epochs=3, images=len(X))
    loop.loss(X[:10], Y[:10])
    loop._epoch = 1
    name = "cem" if isinstance(defense, CEM) else "pca"
    with pytest.raises(UserError, match=rf"^{name} did nothing in epoch 1: .*call end_epoch\(\)"):
        loop.loss(X[:10], Y[:10])


def test_a_defense_that_would_never_act_is_refused():
    with pytest.raises(UserError, match="cem acts from epoch 2 on, but the training has 1"):
        OwnLoop(model(Gaussian(0.1), CEM(16)), epochs=1, images=len(X))
    with pytest.raises(UserError, match=r"got 2\.5 epochs"):
        OwnLoop(model(Gaussian(0.1)), epochs=2.5, images=len(X))  # type: ignore[arg-type]


def test_an_epoch_that_does_not_end_is_refused():
    loop = OwnLoop(model(Gaussian(0.1)), epochs=3, images=len(X))
    loop.loss(X, Y)
    loop.loss(X, Y)
    with pytest.raises(UserError, match=r"80 images have passed .* which has 40; call end_epoch\(\) after each epoch"):
        loop.loss(X, Y)


def test_without_a_defense_it_is_cross_entropy():
    made = model()
    loop = OwnLoop(made, epochs=1, images=len(X))
    assert float(loop.loss(X, Y)) == pytest.approx(float(nn.functional.cross_entropy(made(X), Y)), rel=1e-5)
    assert loop.end_epoch() is False


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="0 epochs of 40 images"):
        OwnLoop(model(), epochs=0, images=40)
    with pytest.raises(UserError, match="the epoch ended before its first step"):
        OwnLoop(model(), epochs=1, images=40).end_epoch()
    loop = OwnLoop(model(Gaussian(0.1), CEM(16, refit="pass")), epochs=2, images=40)
    loop.loss(X, Y)
    with pytest.raises(UserError, match="no images to go through again; use refit=epoch"):
        loop.end_epoch()
