"""SplitModel and the cut: the halves repeat the uncut network, and what cannot be cut is refused."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from splitveil.cutting.network import cut_network
from splitveil.defenses.cem import CEM
from splitveil.defenses.cloak import Cloak
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.randomness import fresh_generator

pytestmark = pytest.mark.usefixtures("quick_weights")

X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Noise(nn.Module):
    def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
        return z + torch.randn(z.shape, generator=rng)


def library(source: str, name: str, size: int = 32) -> nn.Module:
    torch.manual_seed(0)
    if source == "timm":
        timm = pytest.importorskip("timm")
        sized = {"img_size": size} if "vit" in name else {}
        return timm.create_model(name, pretrained=False, num_classes=10, **sized).eval()
    from torchvision import models

    if name == "densenet":
        return models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10).eval()
    if name == "vit":
        return models.VisionTransformer(size, 16, 3, 2, 48, 96, num_classes=10).eval()
    if name == "vgg11_bn":  # without the 120 million weights of its classifier
        with torch.device("meta"):
            network = models.vgg11_bn(num_classes=10, init_weights=False)
        features = models.vgg.make_layers(models.vgg.cfgs["A"], batch_norm=True)
        network.features, network.classifier = features, nn.Sequential(nn.Dropout(), nn.Linear(25_088, 10))
        return network.eval()
    return models.get_model(name, weights=None, num_classes=10).eval()


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 30 * 30, 10))


@pytest.mark.parametrize(
    ("source", "name", "at", "shape"),
    [
        ("torchvision", "resnet18", "layer2", (128, 4, 4)),
        ("torchvision", "resnet18", "layer2.0", (128, 4, 4)),
        ("torchvision", "resnet18", "bn1", (64, 16, 16)),  # an in-place ReLU follows
        ("torchvision", "vgg11_bn", "features.7", (128, 8, 8)),
        ("torchvision", "mobilenet_v2", "features.5", (32, 4, 4)),
        ("torchvision", "densenet", "features.transition1", (16, 4, 4)),
        ("torchvision", "vit", "encoder.layers.encoder_layer_1", (5, 48)),
        ("timm", "resnet18", "layer2", (128, 4, 4)),
        ("timm", "efficientnet_lite0", "blocks.2", (40, 4, 4)),
        ("timm", "vit_tiny_patch16_224", "blocks.3", (5, 192)),
    ],
)
def test_the_halves_repeat_the_network(source, name, at, shape):
    network = library(source, name)
    model = SplitModel.cut(network, at=at, example=X[:1], mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)).eval()
    normalized = (X - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]
    with torch.no_grad():
        z = model.encode(X)
        before = z.clone()
        torch.testing.assert_close(model.tail(z), network(normalized), rtol=1e-4, atol=1e-5)
        assert torch.equal(z, before), "the tail changed z in place"
    assert z.shape[1:] == shape
    halves = [{id(p) for p in half.parameters()} for half in (model.encoder, model.tail)]
    assert not halves[0] & halves[1]
    names = [key for half in (model.encoder, model.tail) for key in half.state_dict()]
    assert sorted(names) == sorted(network.state_dict())


def test_cut_models_train_copy_and_run_channels_last():
    network = library("torchvision", "mobilenet_v2").train()
    model = SplitModel.cut(network, at="features.5", example=X[:1])
    assert model.training
    assert model.tail.get_submodule("classifier.0").training
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    twin(X.to(memory_format=torch.channels_last)).sum().backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert all(p.grad is None for p in [*model.parameters(), *network.parameters()])
    assert torch.equal(model.encoder.get_parameter("features.0.0.weight"), network.get_parameter("features.0.0.weight"))


def test_cutting_leaves_the_network_as_it_is():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(3600, 10)).train()
    network[1].eval()
    before = copy.deepcopy(network.state_dict())
    encoder, _ = cut_network(network, "1", X)
    assert network[0].training
    assert encoder.get_submodule("0").training
    assert not encoder.get_submodule("1").training, "a frozen layer stays frozen"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_cut_network_can_be_built_again_and_loaded():
    first, second = (SplitModel.cut(small(), at="1", example=X[:1]) for _ in range(2))
    with torch.no_grad():
        first.tail.get_parameter("3.bias").add_(1)
    assert not torch.equal(first(X), second(X))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(X), second(X))


class WithTrouble(nn.Module):
    """Data-dependent control flow in a layer that does not contain the cut."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.mean() > 0 else x


class Branching(nn.Module):
    """Branches on shapes, unpacks them, has an optional argument and functional dropout: all can be cut."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.trouble = WithTrouble()
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        if scale is not None:
            x = x * scale
        if x.shape[2] > 16:
            x = functional.avg_pool2d(x, 2)
        x = self.trouble(self.stem(x))
        b, c, _, _ = x.shape
        x = functional.dropout(x.reshape(b, c, -1).mean(-1), 0.5, self.training)
        return self.head(functional.dropout(x, p=0.5, training=self.training))


def test_only_the_ancestors_of_the_cut_are_traced():
    network = Branching().eval()
    model = SplitModel.cut(network, at="stem", example=X[:1]).eval()
    torch.testing.assert_close(model(X), network(X))


def test_functional_dropout_follows_the_mode():
    model = SplitModel.cut(Branching().eval(), at="stem", example=X[:1])
    for twin in (model, copy.deepcopy(model)):
        twin.eval()
        assert torch.equal(twin(X), twin(X))
        twin.train()
        assert not torch.equal(twin(X), twin(X))


class FrozenNorms(nn.Module):
    """Batch norms that stay as they are in training, by a `train` of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))

    def train(self, mode: bool = True) -> FrozenNorms:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


@pytest.mark.parametrize("at", ["stem", "stem.1", "body.0"])
def test_halves_go_into_training_as_the_network_does(at):
    model = SplitModel.cut(FrozenNorms(), at=at, example=X[:1])
    for twin in (model, copy.deepcopy(model)):
        before = {name: value.clone() for name, value in twin.named_buffers()}
        twin.train()(X)
        assert all(torch.equal(before[name], value) for name, value in twin.named_buffers())
        modes = {name.partition(".")[2]: module.training for name, module in twin.named_modules()}
        assert (modes["stem.1"], modes["body.1"], modes["body.2"], modes["body.0"]) == (False, False, True, True)
        assert not any(module.training for module in twin.eval().modules())


class Auxiliary(nn.Module):
    """In training a second head, whose kernel only large images fill; on the way to the logits functional dropout."""

    def __init__(self, kernel: int, form: type = tuple):
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 10)
        self.side, self.form = nn.Conv2d(4, 2, kernel), form

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]:
        x = self.stem(x)
        side = self.side(x).mean((2, 3)) if self.training else None
        y = self.head(functional.dropout(x.mean((2, 3)), 0.5, self.training))
        if side is None:
            return y
        return {"logits": y, "side": side} if self.form is dict else (y, side)


@pytest.mark.parametrize("form", [tuple, dict])
@pytest.mark.parametrize("kernel", [3, 99])
def test_auxiliary_heads_are_left_aside_and_dropout_follows_the_mode(kernel, form):
    network = Auxiliary(kernel, form).eval()
    model = SplitModel.cut(network, at="stem", example=X[:1]).eval()
    torch.testing.assert_close(model(X), network(X))
    assert not torch.equal(model.train()(X), model(X)), "dropout is frozen"
    assert not [name for name in model.state_dict() if "side" in name]


class Crossed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.head = nn.Conv2d(3, 10, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)) + x).flatten(1)


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 10, 30)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.head(y if y.mean() > 0 else -y).flatten(1)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.second = nn.Conv2d(3, 3, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(x))).flatten(1)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 10, 30)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y.mul_(2)
        return self.head(y).flatten(1)


@pytest.mark.parametrize(
    ("network", "at", "message"),
    [
        (small, "9", "the network has no layer '9'; its outermost layers are: 0, 1, 2, 3"),
        (Crossed, "fist", "no layer 'fist'; did you mean 'first'"),
        (Crossed, "first", "a cut at 'first' is crossed by 'x'"),
        (Crossed, "second", "cut at 'head'"),
        (DataDependent, "first", "cannot be traced"),
        (Shared, "first", "leaves the weights second.weight in both halves"),
        (InPlace, "first", "changes a tensor in place by mul_ and does not use the answer"),
        (lambda: nn.Sequential(nn.LSTM(32, 8, batch_first=True)), "0", "returns a tuple; expected one tensor"),
    ],
)
def test_what_cannot_be_cut_is_refused(network, at, message):
    with pytest.raises(UserError) as caught:
        cut_network(network(), at, X[:1, 0] if at == "0" else X[:1])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_skip_connections_are_named_with_legal_neighbors():
    with pytest.raises(UserError, match=r"crossed by 'layer1', 'layer2.0.downsample'.*cut at 'layer2.0' or"):
        cut_network(library("torchvision", "resnet18"), "layer2.0.conv1", X[:1])
    network = library("torchvision", "densenet")
    with pytest.raises(UserError, match=r"crossed by 'features.pool0', .* cut at '([^']+)' or '([^']+)'") as caught:
        cut_network(network, "features.denseblock1.denselayer2.conv1", X[:1])
    for name in str(caught.value).split("cut at '")[-1].rstrip("'").split("' or '"):
        cut_network(network, name, X[:1])


def test_a_layer_that_runs_twice_or_never_is_refused():
    relu = nn.ReLU()
    twice = nn.Sequential(nn.Conv2d(3, 4, 3), relu, nn.Conv2d(4, 4, 3), relu)
    with pytest.raises(UserError, match="runs 2 times"):
        cut_network(twice, "1", X[:1])
    network = Crossed()
    network.unused = nn.ReLU()
    with pytest.raises(UserError, match="runs never"):
        cut_network(network, "unused", X[:1])


def test_an_input_of_the_wrong_shape_is_named():
    with pytest.raises(UserError, match=r"does not take an input of shape \(1, 3, 8, 8\)"):
        cut_network(small(), "1", torch.rand(1, 3, 8, 8))


def test_the_wire_carries_the_defended_feature():
    model = SplitModel(nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(3600, 10)), defense=Noise())
    wire = model.encode(X, torch.Generator().manual_seed(1))
    noise = torch.randn(wire.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(wire, model.features(X) + noise)
    assert torch.equal(model(X, torch.Generator().manual_seed(1)), model.tail(wire))


def test_without_a_generator_the_noise_never_repeats():
    model = SplitModel(nn.Conv2d(3, 4, 3), nn.Flatten(), defense=Noise())
    torch.manual_seed(0)
    first = model.encode(X)
    torch.manual_seed(0)
    assert not torch.equal(first, model.encode(X))
    assert fresh_generator().initial_seed() != fresh_generator().initial_seed()


def test_normalisation_lives_inside():
    model = SplitModel(nn.Identity(), nn.Flatten(), mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))
    z = model.features(torch.ones(1, 3, 2, 2))
    torch.testing.assert_close(z[0, :, 0, 0], torch.tensor([0.9, 0.4, 0.175]))
    assert {"mean", "std"} <= set(model.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"defense": nn.Identity()}, "Identity is no defense; expected a module with on_wire"),
        ({"mean": (0.5,)}, "do not fit"),
        ({"std": (1.0, 0.0, 1.0)}, "expected a positive std"),
    ],
)
def test_bad_parts_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        SplitModel(nn.Identity(), nn.Flatten(), **arguments)


class WritesIntoItsList(nn.Module):
    """As the modules of HRNet: the list that it is given holds its answers afterwards."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1)])

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        for i, layer in enumerate(self.layers):
            x[i] = layer(x[i])
        return [x[0] + x[1], x[1]]


def test_layers_may_write_into_the_lists_that_they_are_given():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mixed, self.head = nn.Conv2d(3, 4, 3), WritesIntoItsList(), nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            z = self.stem(x)
            return self.head(torch.stack(self.mixed([z, 2 * z])).mean((0, 3, 4)))

    network, x = Branches().eval(), torch.rand(3, 3, 8, 8)
    encoder, tail = cut_network(network, "stem", x[:1])
    torch.testing.assert_close(tail(encoder(x)), network(x))


def test_hrnet_is_cut():
    timm = pytest.importorskip("timm")

    network, x = timm.create_model("hrnet_w18_small", num_classes=5).eval(), torch.rand(2, 3, 64, 64)
    encoder, tail = cut_network(network, "layer1", x[:1])
    torch.testing.assert_close(tail(encoder(x)), network(x))


def test_a_cut_model_knows_its_shapes_and_installs_its_defenses():
    """Cloak and vib have weights in the shape of the wire, cem asks the others for their noise."""
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 4, 10))
    x = torch.rand(2, 1, 8, 6)
    model = SplitModel.cut(network, at="1", example=x[:1], defense=[Gaussian(0.2), Cloak(), CEM(16)])
    assert model.wire_shape == (8, 6, 4)
    assert model.image_shape == (1, 8, 6)
    gaussian, cloak, cem = cast("Any", model.defense)
    assert cloak.rho.shape == (8, 6, 4)
    assert cem.sigma2 == pytest.approx(gaussian.noise_variance() + cloak.noise_variance())
    assert model(x, torch.Generator().manual_seed(0)).shape == (2, 10)
    assert model.training


def test_halves_learn_their_shapes_from_an_example_too():
    halves = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Flatten(), nn.Linear(144, 10))
    assert SplitModel(*halves, example=torch.rand(1, 3, 8, 8)).wire_shape == (4, 6, 6)
    assert SplitModel(*halves).wire_shape == ()
