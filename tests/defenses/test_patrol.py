"""Defenses that change the network: pruning, the bottleneck, and how their runs are read back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil import config, runs, zoo
from splitveil.data import load
from splitveil.defenses._pruning import prune
from splitveil.defenses._resizing import resize
from splitveil.defenses.base import Stack
from splitveil.defenses.bottleneck import Bottleneck
from splitveil.defenses.patrol import Patrol
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.training.trainer import fit
from wires import rng, with_wire

pytestmark = pytest.mark.usefixtures("quick_weights")

pytest.importorskip("torch_pruning")


def layers(model: SplitModel) -> Any:
    return model.encoder


def network(defense: nn.Module | None = None) -> SplitModel:
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 10, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(10, 4, 3, padding=1),
    )
    tail = nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 3))
    model = SplitModel(encoder, tail, defense=defense)
    model.wire_shape = (4, 8, 8)
    model.image_shape = (3, 8, 8)
    return model


def batch(model: SplitModel, patrol: Patrol) -> None:
    x = torch.rand(6, 3, 8, 8, generator=rng())
    patrol.before_step(x, torch.arange(6) % 3, model)


def test_pruning_removes_the_part_asked_for_and_keeps_the_wire():
    patrol = Patrol(2, ratio=0.5, double=False)
    model = network(patrol)
    patrol.install(model)
    batch(model, patrol)
    model.features(torch.rand(6, 3, 8, 8, generator=rng(2)))  # statistics other than those of the start
    assert patrol.restructure(0, model) is False
    batch(model, patrol)  # the importances are those of the epoch's own batches
    statistics = layers(model)[1].running_mean.clone()
    assert patrol.restructure(1, model) is True
    widths = [layer.out_channels for layer in layers(model) if isinstance(layer, nn.Conv2d)]
    assert widths == [4, 5, 4]
    assert set(layers(model)[1].running_mean.tolist()) < set(statistics.tolist())
    assert model.features(torch.rand(2, 3, 8, 8)).shape == (2, 4, 8, 8)
    assert patrol.restructure(2, model) is False


def test_channels_without_influence_on_the_loss_go_first():
    patrol = Patrol(1, ratio=0.5, double=False)
    model = network(patrol)
    dead = [0, 2, 5, 7]
    with torch.no_grad():  # large weights in, none out: magnitude would keep them, the loss does not need them
        layers(model)[0].weight[dead] *= 100
        layers(model)[3].weight[:, dead] = 0
    alive = layers(model)[0].weight[[1, 3, 4, 6]].clone()
    patrol.install(model)
    batch(model, patrol)
    x = torch.rand(2, 3, 8, 8, generator=rng(1))
    patrol.restructure(0, model)
    assert torch.equal(layers(model)[0].weight, alive)
    assert model.features(x).shape == (2, 4, 8, 8)


def test_the_first_layer_is_doubled():
    patrol = Patrol(1, ratio=0.5)
    model = network(patrol)
    patrol.install(model)
    first = layers(model)[0]
    assert isinstance(first, nn.Sequential)
    assert [layer.out_channels for layer in first if isinstance(layer, nn.Conv2d)] == [2, 8]
    assert model.features(torch.rand(2, 3, 8, 8)).shape == (2, 4, 8, 8)


@pytest.mark.parametrize(("arch", "cut"), [("resnet20", 3), ("vgg11_bn_sgm", 4), ("mobilenetv2", 3)])
def test_networks_of_the_zoo_are_pruned_and_resized_back(arch, cut):
    def make() -> tuple[SplitModel, Patrol]:
        torch.manual_seed(0)
        parts = zoo.build(arch, cut=cut, classes=3, image_size=32, bottleneck=None)
        patrol = Patrol(1, ratio=0.3, double=False)
        model = SplitModel(parts.encoder, parts.tail, defense=Stack(patrol))
        model.image_shape = (3, 32, 32)
        model.eval()
        patrol.install(model)
        return model, patrol

    model, patrol = make()
    x = torch.rand(2, 3, 32, 32, generator=rng())
    shape = model.features(x).shape
    patrol.before_step(x, torch.tensor([0, 1]), model)
    patrol.restructure(0, model)
    wire = model.features(x)
    fresh, _ = make()
    before = sum(p.numel() for p in fresh.encoder.parameters())
    assert wire.shape == shape
    assert sum(p.numel() for p in model.encoder.parameters()) < before
    assert fresh.defense.restructure_like(fresh, model.state_dict())  # type: ignore[union-attr]
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.features(x), wire)


def settings(epochs: Any = 3, **more: Any) -> config.TrainConfig:
    values = {"data": "digits", "arch": "resnet20_sgm", "cut": 2, "bottleneck": 2, "epochs": epochs}
    values |= {
        "batch_size": 15,
        "train_size": 30,
        "test_size": 20,
        "defense": ["gaussian:0.1", "patrol:epoch=2,ratio=0.4"],
    }
    return config.parse(values | more)


def test_a_pruned_run_trains_on_reloads_and_resumes(tmp_path: Path):
    images = load("digits", train_size=30, test_size=20)
    summary = fit(settings(), images, tmp_path / "whole")
    unpruned = runs.parameter_counts(runs.build_model(settings().resolve(), images))
    assert summary["parameters"]["encoder"] < unpruned["encoder"]
    assert summary["parameters"]["tail"] == unpruned["tail"]
    assert summary["epoch"] >= 1  # the network from before the pruning is no candidate

    def stop(epoch: int, done: int, record: dict) -> None:
        if epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(settings(), images, tmp_path / "parts", progress=stop)
    fit(settings(), images, tmp_path / "parts", resume=True)
    x = images.test.images[:4].float() / 255
    wires = [runs.Run.open(tmp_path / n).model(images).encode(x, rng()) for n in ("whole", "parts")]
    assert torch.equal(*wires)
    assert wires[0].shape == (4, *summary["wire"]["shape"])


def test_pruning_after_the_last_epoch_is_refused_before_anything_is_written(tmp_path: Path):
    images = load("digits", train_size=30, test_size=20)
    with pytest.raises(UserError, match="patrol acts from epoch 3 on, but the training has 2"):
        fit(settings(2), images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_ratio_that_removes_nothing_is_refused_at_the_start():
    with pytest.raises(UserError, match=r"ratio 0\.01 removes no channel"):
        Patrol(1, ratio=0.01).install(network())


def test_the_bottleneck_is_that_of_the_setting():
    images = load("digits", train_size=30, test_size=20)
    plain: dict[str, Any] = {"bottleneck": None, "defense": ["gaussian:0.1"]}
    by_setting = runs.build_model(settings(**(plain | {"bottleneck": 4})).resolve(), images)
    by_defense = runs.build_model(
        settings(**(plain | {"defense": ["cloak:1", "bottleneck:4", "gaussian:0.1"]})).resolve(), images
    )
    keys = [k for k in by_setting.state_dict() if k.startswith(("encoder", "tail"))]
    assert keys == [k for k in by_defense.state_dict() if k.startswith(("encoder", "tail"))]
    by_defense.load_state_dict({k: by_setting.state_dict()[k] for k in keys}, strict=False)
    x = torch.rand(2, 3, 32, 32, generator=rng())
    assert torch.equal(by_setting.eval().features(x), by_defense.eval().features(x))
    assert str(by_setting.wire_shape) == str(by_defense.wire_shape)
    assert by_defense.defense.parts[0].rho.shape == (4, 16, 16)  # type: ignore[union-attr]


def test_two_bottlenecks_are_refused():
    images = load("digits", train_size=30, test_size=20)
    with pytest.raises(UserError, match="has a bottleneck already; give either --bottleneck or --defense"):
        runs.build_model(settings(defense=["bottleneck:4"]).resolve(), images)
    with pytest.raises(UserError, match="'bottleneck' was given twice"):
        Stack(Bottleneck(2), Bottleneck(4))


def test_a_bottleneck_on_a_foreign_network_wraps_it():
    model = with_wire()
    model.tail = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    Bottleneck(2, stride=2).install(model)
    assert model.wire_shape == (2, 2, 2)
    assert model.eval()(torch.rand(1, 3, 5, 5)).shape == (1, 3)


@pytest.mark.parametrize(
    "arch",
    [
        "timm:convnext_atto@stages.0",
        "timm:mambaout_femto@stages.0",
        "timm:edgenext_xx_small@stages.1",
        "timm:convformer_s18@stages.0",
        "torchvision:convnext_tiny@features.3",
        "timm:poolformer_s12@stages.0",
    ],
)
def test_pruned_networks_with_layer_norm_are_read_back(arch):
    pytest.importorskip("timm")

    pruned = zoo.build(arch, cut=None, classes=3, image_size=32).encoder.eval()
    fresh, x = copy.deepcopy(pruned), torch.rand(2, 3, 32, 32)
    prune(pruned, x, 0.3)
    assert resize(fresh, pruned.state_dict(), "")
    fresh.load_state_dict(pruned.state_dict())
    assert torch.equal(fresh(x), pruned(x))


class ChannelNorm(nn.Module):
    """A layer norm over channels, without weights."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def test_channels_before_a_layer_norm_without_weights_stay():
    """No tensor in the file tells the size of such a norm, so that a pruned network could not be read back."""
    layers = [nn.Conv2d(3, 16, 3), ChannelNorm(16), nn.ReLU(), nn.Conv2d(16, 20, 3), nn.ReLU(), nn.Conv2d(20, 8, 3)]
    pruned = nn.Sequential(*layers).eval()
    fresh, x = copy.deepcopy(pruned), torch.rand(2, 3, 12, 12)
    prune(pruned, x, 0.3)
    first, second = cast(nn.Conv2d, pruned[0]), cast(nn.Conv2d, pruned[3])
    assert first.out_channels == 16
    assert second.out_channels < 20
    assert resize(fresh, pruned.state_dict(), "")
    fresh.load_state_dict(pruned.state_dict())
    assert torch.equal(fresh(x), pruned(x))


def test_pruning_leaves_modes_frozen_weights_and_memory_as_they_are():
    encoder = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64).eval(), nn.Conv2d(64, 8, 3))
    encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    encoder.requires_grad_(False)
    encoder[2].requires_grad_(True)
    prune(encoder, torch.zeros(2, 3, 8, 8), 0.05)
    assert encoder[0].out_channels == 61  # 0.05 of 64 is 3.2: never more than the part asked for
    assert [module.training for module in encoder] == [True, False, True]
    assert [p.requires_grad for p in encoder.parameters()] == [False] * 4 + [True] * 2
    weight: Any = encoder[2].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert not weight.is_contiguous()


def test_wholly_frozen_weights_are_pruned_too():
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).requires_grad_(False)
    prune(encoder, torch.zeros(2, 3, 8, 8), 0.5)
    assert encoder[0].out_channels == 4


def test_a_pruning_that_removes_nothing_is_refused():
    with pytest.raises(UserError, match="removes no channel"):
        prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), torch.zeros(2, 3, 8, 8), 0.05)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 8, 4, 2, 1), nn.Conv2d(3, 8, 5), nn.Conv2d(3, 8, 3, dilation=2)])
def test_the_wire_keeps_its_shape_whatever_layer_is_doubled(layer):
    network = nn.Sequential(layer, nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.LazyLinear(2))
    x = torch.rand(4, 3, 16, 16)
    network(x)
    plain = sv.split(network, at="3", example=x[:1])
    model = sv.split(network, at="3", example=x[:1], defenses="patrol:epoch=1,ratio=0.5")
    assert model.wire_shape == plain.wire_shape == tuple(model.features(x).shape[1:])
    assert model(x).shape == (4, 2)


class Reordered(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, x):
        return self.how(x)


ORDERS = {
    "flip": lambda x: x.flip(1),
    "shuffle": nn.ChannelShuffle(2),
    "flatten with the channels last": lambda x: x.permute(0, 2, 3, 1).flatten(1),
    "as they are": lambda x: x,
    "flatten": lambda x: x.flatten(1),
}


@pytest.mark.parametrize("order", ORDERS)
def test_channels_that_change_places_stay(order):
    """The library would remove the weights of other channels from the next layer."""
    torch.manual_seed(0)
    last = nn.Linear(8 * 64, 5) if "flatten" in order else nn.Conv2d(8, 5, 3)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), Reordered(ORDERS[order]), last)
    example = torch.rand(1, 3, 8, 8)
    if order in ("as they are", "flatten"):
        prune(encoder, example, 0.5)
        assert encoder[0].out_channels == 4
        return
    with pytest.raises(UserError, match="removes no channel"):
        prune(encoder, example, 0.5)


def test_a_network_that_the_library_cannot_follow_is_refused_in_one_line():
    """The channel shuffle of ShuffleNet divides by zero in it."""
    torchvision = pytest.importorskip("torchvision")
    network = torchvision.models.shufflenet_v2_x0_5(weights=None)
    encoder = nn.Sequential(network.conv1, network.maxpool, network.stage2).eval()
    with pytest.raises(UserError, match="removes no channel"):
        prune(encoder, torch.rand(1, 3, 64, 64), 0.5)
