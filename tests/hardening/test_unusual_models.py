"""Models of one's own that are hard to harden: sure of their images, of any scale, without weights in the tail."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil import config
from splitveil.data import load
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.waterfill import Waterfill
from splitveil.errors import UserError
from splitveil.hardening import gathering
from splitveil.hardening import ground as grounds
from splitveil.hardening import search as searching
from splitveil.hardening.temperature import temperature
from splitveil.model import SplitModel
from splitveil.ranges import MOST

IMAGES = load("digits", train_size=600, test_size=200)


@functools.cache
def _sure() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 2, 2, 2), nn.ReLU())
    tail = nn.Sequential(nn.Flatten(), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    network, images = nn.Sequential(encoder, tail), IMAGES.train
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for index in (part for _ in range(30) for part in torch.randperm(600).split(32)):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images.images[index] / 255), images.labels[index]).backward()
        optimizer.step()
    return encoder, tail


def sure() -> tuple[nn.Module, nn.Module]:
    """Halves of a network that is sure of all images that it has learned, which the caller may change."""
    return copy.deepcopy(_sure())


class Scaled(nn.Module):
    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z * self.by


@pytest.mark.parametrize(("scale", "sigma"), [(1.0, 0.05), (1e3, 0.05), (1.0, 1e-9), (1e6, 0.05)])
def test_a_network_that_is_sure_of_its_images_is_hardened_whatever_the_size_of_its_features(scale, sigma):
    """The noise that it bears is far below the first search; a scale of 1,000 ruins the tail that is trained."""
    encoder, tail = sure()
    with torch.no_grad():
        tail[1].weight /= scale  # type: ignore[index, operator]
    example = IMAGES.train.images[:1] / 255
    model = SplitModel(nn.Sequential(encoder, Scaled(scale)), tail, defense=[Gaussian(sigma)], example=example)
    found = sv.harden(model, IMAGES.train, validate=IMAGES.test, max_drop=2)
    chosen = found.search.chosen
    assert chosen is not None
    assert found.search.before > 0.85
    assert chosen.loss < searching.LEAST_LOSS
    assert searching.noisy_accuracy(found.model, IMAGES.test, 0) == chosen.accuracy >= found.search.before - 0.02
    assert chosen.linear_error > 0.008


@pytest.mark.parametrize("sharp", [4.0, 64.0])
def test_a_network_is_hardened_however_sure_it_is(sharp):
    """Multiplied logits answer the same classes, but their Fisher information is nearly 0, or 0 in float32."""
    encoder, tail = sure()
    example = IMAGES.train.images[:1] / 255
    model = SplitModel(encoder, nn.Sequential(tail, Scaled(sharp)), defense=[Gaussian(0.05)], example=example)
    search = sv.harden(model, IMAGES.train, validate=IMAGES.test, max_drop=2).search
    assert search.chosen is not None
    assert search.chosen.accuracy >= search.before - 0.02
    assert search.chosen.linear_error > 0.0119  # that of the network before its logits were multiplied


@pytest.mark.parametrize("most", [4096, 16])
def test_the_fisher_information_of_a_sure_network_is_that_of_softer_answers(monkeypatch, most):
    monkeypatch.setattr(grounds, "MOST", most)  # of wide wires, by products
    images, known = IMAGES.train.images, []
    encoder, tail = sure()
    for sharp in (1.0, 16.0, 4096.0):
        model = SplitModel(encoder, nn.Sequential(tail, Scaled(sharp)), example=images[:1] / 255).eval()
        known.append(grounds.ground(model, images, torch.Generator().manual_seed(0), None).sharpness)
    assert known[2] == known[1] > known[0] > 0


@pytest.mark.parametrize("logit", [0.3, 6.0, 50.0, 1e4, math.nan])
def test_answers_are_softened_only_where_they_are_sure(logit):
    tail = nn.Linear(32, 2)
    with torch.no_grad():
        tail.weight.zero_()
        tail.bias.copy_(torch.tensor([logit, 0.0]))
    images = IMAGES.train.images[:50]
    model = SplitModel(nn.Conv2d(3, 2, 8, 8), nn.Sequential(nn.Flatten(), tail), example=images[:1] / 255).eval()
    rng = torch.Generator().manual_seed(3)
    state = rng.get_state()
    by = temperature(model, images, rng)
    assert torch.equal(rng.get_state(), state)

    def entropy(t: float) -> float:
        p = 1 / (1 + math.exp(-t))
        return -p * math.log(p) - (1 - p) * math.log1p(-p) if p < 1 else 0.0

    if math.isnan(logit) or entropy(logit) >= 0.005:
        assert by == 1
    else:
        assert entropy(2 * logit / by) < 0.1 <= entropy(logit / by)


@pytest.mark.parametrize(("sharp", "scale"), [(2.0, 1.0), (1.0, 1e10)])
def test_a_hardened_model_has_settings_that_are_taken_again(sharp, scale, tmp_path, monkeypatch):
    """The price of a nat has no limit where a network is very sure, nor the noise where features are large."""
    monkeypatch.setattr(gathering, "temperature", lambda *_: 1.0)  # as hardened models of before may be
    encoder, tail = sure()
    tail[1].weight.data /= scale  # type: ignore[index, operator]
    example = IMAGES.train.images[:1] / 255
    model = SplitModel(nn.Sequential(encoder, Scaled(scale)), nn.Sequential(tail, Scaled(sharp)), example=example)
    hardened = sv.harden(model, IMAGES.train, validate=IMAGES.test, max_drop=5).model
    (noise,) = hardened.defense  # type: ignore[misc, union-attr]
    assert isinstance(noise, Waterfill)
    assert max(noise.mu, noise.sigma) > MOST
    written = config.spec_of(noise, "defenses").resolve("defenses")
    assert Waterfill(**written.parameters).mu == noise.mu


def test_a_tail_without_weights_is_hardened():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    model = SplitModel(encoder, nn.Identity(), example=IMAGES.train.images[:1] / 255)
    found = sv.harden(model, IMAGES.train, max_drop=100)
    assert found.search.chosen
    assert "\nflag: the network is not shown to be better than chance on its 60 validation images" in str(found)


def test_a_network_that_has_learned_has_no_flag():
    encoder, tail = sure()
    model = SplitModel(encoder, tail, defense=[Gaussian(0.05)], example=IMAGES.train.images[:1] / 255)
    assert sv.harden(model, IMAGES.train, validate=IMAGES.test, max_drop=5).flags == []


@pytest.mark.parametrize("part", ["encoder", "tail"])
def test_weights_without_gradients_are_refused(part):
    with torch.inference_mode(part == "encoder"):
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(3072, 16))
    with torch.inference_mode(part == "tail"):
        tail = nn.Linear(16, 10)
    model = SplitModel(encoder, tail, example=IMAGES.train.images[:1] / 255)
    expected = r"made under torch\.inference_mode; .*: write model = copy\.deepcopy\(model\)"
    with pytest.raises(UserError, match=expected):
        sv.harden(model, IMAGES.train, max_drop=100)
    with pytest.raises(UserError, match=expected):
        sv.fit(model, IMAGES.train, epochs=1)
    assert sv.harden(copy.deepcopy(model), IMAGES.train, max_drop=100).search.chosen


@pytest.mark.parametrize("validate", [False, True])
def test_labels_beyond_the_outputs_are_refused(validate):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3072, 16))
    model = SplitModel(encoder, nn.Linear(16, 10), example=IMAGES.train.images[:1] / 255)
    beyond = IMAGES.train.images[:200] / 255, IMAGES.train.labels[:200] + 5
    with pytest.raises(UserError, match=r"labels of (data|validate) go from 5 to 14, the network has 10 outputs"):
        sv.harden(model, IMAGES.train if validate else beyond, validate=beyond)
