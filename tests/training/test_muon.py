"""Muon: what its steps are, which weights it takes, and that all else is SGD."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

import splitveil as sv
from splitveil import config, zoo
from splitveil.data import Split
from splitveil.defenses.gaussian import Gaussian
from splitveil.model import SplitModel
from splitveil.nn.orthogonal import orthogonal
from splitveil.recipe import LATER, RECIPES, Recipe
from splitveil.training import loop, optimizers
from splitveil.training.muon import LEAST, Muon, before_norms
from training_helpers import Killed, fit, killer


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def found_in(model: SplitModel, size: int = 32) -> dict[nn.Parameter, int]:
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    return before_norms(model, x, torch.Generator().manual_seed(0))


def of_the_zoo(arch: str, **more) -> SplitModel:
    parts = zoo.build(arch, classes=10, image_size=32, bottleneck=zoo.Bottleneck(8), **more)
    return SplitModel(parts.encoder, parts.tail, defense=[Gaussian(0.025)], example=torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_weight_keeps_its_norm_and_turns_by_the_rate(nesterov):
    weight = nn.Parameter(3 * random(8, 4, 3, 3))
    before = weight.detach().clone()
    optimizer = Muon([{"params": [weight], "matrices": [1]}], lr=0.05, momentum=0.5, nesterov=nesterov)
    gradients = [random(8, 4, 3, 3, seed=seed) for seed in (1, 2)]
    buffer = torch.zeros_like(before)
    for gradient in gradients:
        weight.grad = 1e3 * gradient  # its size does not matter
        optimizer.step()
        buffer = 0.5 * buffer + gradient
        wanted = orthogonal((gradient + 0.5 * buffer if nesterov else buffer).reshape(1, 8, -1)).reshape(8, 4, 3, 3)
        expected = before / before.norm() - 0.05 * wanted / wanted.norm()
        torch.testing.assert_close(weight.detach() / weight.norm(), expected / expected.norm(), atol=1e-5, rtol=0)
        assert float(weight.detach().norm()) == pytest.approx(float(before.norm()), rel=1e-5)
        before = weight.detach().clone()


def test_filters_of_a_grouped_convolution_are_matrices_of_their_own():
    weight = nn.Parameter(torch.ones(4, 1, 3, 3))
    optimizer = Muon([{"params": [weight], "matrices": [4]}], lr=0.1, momentum=0.0)
    weight.grad = random(4, 1, 3, 3) * torch.tensor([1.0, 10.0, 100.0, 1000.0]).view(4, 1, 1, 1)
    optimizer.step()
    steps = (weight.detach() * 6 / weight.detach().norm() - 1).flatten(1)
    away = steps - (steps.mean() * torch.ones_like(steps))
    assert away.norm(dim=1).max() < 2 * away.norm(dim=1).min()  # as one matrix the last would have nearly all of it


def test_a_dead_channel_beside_one_that_learns_stays_finite():
    weight = nn.Parameter(torch.ones(2, 1, 3, 3))
    optimizer = Muon([{"params": [weight], "matrices": [2]}], lr=0.05, momentum=0.9, nesterov=True)
    for step in range(600):
        weight.grad = random(2, 1, 3, 3, seed=step)
        if step:
            weight.grad[0] = 0  # its momentum fades until its squares are 0
        optimizer.step()
    assert weight.isfinite().all()
    assert float(weight.detach().norm()) == pytest.approx(18**0.5, rel=1e-4)


def test_no_gradient_and_a_gradient_of_zero_change_nothing():
    weights = [nn.Parameter(random(4, 4, seed=seed)) for seed in range(2)]
    before = copy.deepcopy(weights)
    optimizer = Muon([{"params": weights, "matrices": [1, 1]}], lr=0.1)
    weights[1].grad = torch.zeros(4, 4)
    optimizer.step()
    for weight, was in zip(weights, before, strict=True):
        torch.testing.assert_close(weight, was, atol=LEAST, rtol=1e-6)


def test_all_other_parameters_are_those_of_sgd():
    model = of_the_zoo("vgg11_bn_sgm", cut=4)
    settings = Recipe.model_validate({"recipe": "fast"})
    found = found_in(model)
    twin = copy.deepcopy(model)
    mine = optimizers.build(list(model.parameters()), settings, found, torch.device("cpu"))
    theirs = optimizers.build(list(twin.parameters()), settings, {}, torch.device("cpu"))
    assert isinstance(mine, Muon)
    assert type(theirs) is torch.optim.SGD
    names = {name for name, p in model.named_parameters() if p in found}
    x, y = torch.rand(8, 3, 32, 32), torch.arange(8)
    for network, optimizer in ((model.train(), mine), (twin.train(), theirs)):
        torch.manual_seed(1)
        cross_entropy(network(x, torch.Generator().manual_seed(2)), y).backward()
        optimizer.step()
    assert len(names) == 8
    for (name, p), q in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q) == (name not in names), name


@pytest.mark.parametrize(
    ("arch", "count", "groups"),
    [("vgg11_bn_sgm", 8, {1}), ("resnet20_sgm", 19, {1}), ("mobilenetv2_sgm", 52, None), ("vgg11_sgm", 0, set())],
)
def test_weights_before_norms_are_found_and_nothing_changes(arch, count, groups):
    model = of_the_zoo(arch, cut=2).train()
    next(model.tail.children()).eval()
    modes = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    found = found_in(model)
    assert len(found) == count
    assert groups is None or set(found.values()) == groups
    assert groups is not None or any(g > 1 for g in found.values())
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_frozen_weights_are_left_alone():
    model = of_the_zoo("vgg11_bn_sgm", cut=4)
    model.encoder.requires_grad_(False)
    assert {w.size(0) for w in found_in(model)} == {256, 512}


@pytest.mark.parametrize("inplace", [False, True])
def test_a_layer_norm_counts_and_an_activation_between_does_not(inplace):
    """A tensor that was changed in place is the same object, but not the layer's answer."""
    between = [nn.Linear(8, 8), nn.ReLU(inplace), nn.LayerNorm(8)]
    tail = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.LayerNorm(8), *between)
    model = SplitModel(nn.Identity(), tail, example=torch.rand(1, 3, 4, 4))
    assert [tuple(w.shape) for w in found_in(model, 4)] == [(8, 48)]


def test_the_recipe_takes_muon_and_a_run_of_before_sgd():
    assert config.parse({"data": "digits", "recipe": "fast"}).optimizer == "muon"
    assert config.parse({"data": "digits"}).optimizer == "sgd"
    before = RECIPES["fast"].keys() - LATER.keys()
    values = {"recipe": "fast", **{key: RECIPES["fast"][key] for key in before}}
    assert Recipe.model_validate(values).optimizer == "sgd"


def test_by_sgd_the_fast_recipe_is_that_of_before():
    sgd = {"recipe": "fast", "optimizer": "sgd"}
    assert config.parse({"data": "digits", **sgd}).warmup_epochs == 3
    short = config.parse({"data": "digits", **sgd, "epochs": 3})
    assert (short.warmup_epochs, short.lr) == (1.5, 0.1)


def test_images_go_through_the_network_where_the_training_is(monkeypatch):
    """Initial weights were scaled before the network was moved, so that every training on a GPU ended with an error."""
    places = []

    class Stop(Exception):
        pass

    class Fabric:
        device, world_size, global_rank = torch.device("meta"), 1, 0

    def seen(model, *_):
        places.append({p.device.type for p in model.parameters()})
        raise Stop

    monkeypatch.setattr(loop, "scale_to_unit_variance", seen)
    monkeypatch.setattr(loop.Training, "_rng", lambda *_: torch.Generator().manual_seed(0))
    tail = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    model = SplitModel(nn.Identity(), tail, defense=[], example=torch.rand(1, 3, 4, 4))
    images = Split(torch.zeros(4, 3, 4, 4, dtype=torch.uint8), torch.arange(4) % 2)
    with pytest.raises(Stop):
        loop.Training(model, images, None, Recipe.model_validate({"recipe": "fast"}), 2, Fabric())  # type: ignore
    assert places == [{"meta"}]


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path):
    given = {"recipe": "fast", "epochs": 2, "batch_size": 32}
    fit(tmp_path / "whole", **given)
    with pytest.raises(Killed):
        fit(tmp_path / "stopped", progress=killer(1, 1), **given)
    fit(tmp_path / "stopped", resume=True, **given)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_network_of_ones_own_keeps_sgd_unless_it_is_asked_for():
    x, y = torch.rand(40, 3, 8, 8), torch.arange(40) % 2
    moved = []
    asked: list[dict[str, Any]] = [{}, {"optimizer": "muon"}]
    for more in asked:
        torch.manual_seed(0)
        conv = nn.Conv2d(3, 4, 3, bias=False)
        norm = conv.weight.detach().norm()
        network = nn.Sequential(conv, nn.BatchNorm2d(4), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 2))
        model = sv.split(network, "2", x[:1], defenses=["gaussian:0.1"])
        sv.fit(model, (x, y), epochs=2, batch_size=20, progress=False, **more)
        trained = next(model.encoder.parameters()).detach()
        moved.append(abs(float(trained.norm() / norm) - 1))
    assert moved[1] < 1e-5 < moved[0]
