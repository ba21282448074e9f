"""What a caller gives from Python is taken, or refused in one line that says what to write."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import splitveil as sv
from splitveil.errors import UserError
from splitveil.given import images_of

X = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 4


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4), nn.Sigmoid(), nn.Flatten(), nn.Linear(16, 4))


def model(*defenses: Any, **settings: Any) -> sv.SplitModel:
    return sv.split(network(), at="2", example=X[:1], defenses=defenses, **settings)


class Items(Dataset):
    """A data set whose end only its length tells, as of torchvision."""

    def __init__(self, item: Any):
        self.item = item

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


def message(function: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        (X.numpy(), Y.numpy()),
        [X, Y],
        (X, Y.tolist()),
        (X.double(), Y.int()),
        (X, Y.float()),
        ((255 * X).round().byte(), Y.byte()),
        TensorDataset(X, Y),
        DataLoader(TensorDataset(X, Y), batch_size=3),
        DataLoader(TensorDataset(X, Y), batch_size=None),
        [(X[i], int(Y[i])) for i in range(20)],
        [(X[i].numpy(), Y[i].numpy()) for i in range(20)],
    ],
)
def test_the_same_images_however_they_are_given(data):
    found = images_of(data, "data")
    assert torch.equal(found.images, (255 * X).round().byte())
    assert torch.equal(found.labels, Y)
    assert found.labels.dtype == torch.int64


def test_a_data_set_ends_with_its_length():
    assert len(images_of(Items(lambda i: (X[i % 20], i % 4)), "data")) == 6


def test_reading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    images_of(DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True), "data")
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ((X[:, :1], Y), "have shape (1, 8, 8), the model was made for (3, 8, 8)"),
        ((X[:, :2], Y), "expected (N, C, H, W) with C = 3, or 1 of gray images"),
        ((X[:, 0], Y), "expected (N, C, H, W) with C = 3, or 1 of gray images: write x[:, None]"),
        ((X.permute(0, 2, 3, 1), Y), "with C = 3, or 1 of gray images: write x.permute(0, 3, 1, 2)"),
        ((X[..., :6], Y), "have shape (3, 8, 6), the model was made for (3, 8, 8)"),
        ((X[..., :0], Y), "have shape (20, 3, 8, 0); expected (N, C, H, W)"),
        ((255 * X, Y), "expected pixels in [0, 1], without normalization: write x / 255"),
        ((X - 0.5, Y), "leave it out, and give splitveil.split mean=... and std=..."),
        (((255 * X).long(), Y), "write x.to(torch.uint8)"),
        ((X > 0.5, Y), "are torch.bool; expected uint8, or floats in [0, 1]"),
        ((X, nn.functional.one_hot(Y)), "have shape (20, 4); expected (20,): write y.argmax(1)"),
        ((X, Y[:, None]), "write y.flatten()"),
        ((X, Y + 0.5), "no whole numbers"),
        ((X, Y - 1), "go down to -1; expected classes from 0 on: write y - y.min()"),
        ((X, Y + 1), "go from 1 to 4, the network has 4 outputs; expected 0 to 3: write y - 1"),
        ((X, torch.arange(20)), "give the network more outputs"),
        ((X, None), "holds a NoneType, which is no tensor"),
        (X, "data is a Tensor; expected (x, y)"),
        (None, "data is a NoneType; expected (x, y)"),
        ({"x": X, "y": Y}, "data is a dict; expected (x, y)"),
        ((X, Y, Y), "data has 3 parts; expected (x, y)"),
        (TensorDataset(X, Y, Y), "data yields 3 parts for an image; expected pairs"),
        (Items(lambda i: {"image": X[i]}), "data yields a dict; expected pairs"),
        (Items(lambda i: (Image.new("RGB", (8, 8)), i)), "data holds PIL images; expected tensors"),
        (Items(lambda i: (X[i][:, : 6 + i % 2], i)), "images of shapes (3, 6, 8) and (3, 7, 8); expected one"),
        (TensorDataset(X[:0], Y[:0]), "data is empty"),
        ((X.repeat(1, 1, 2, 2), Y), "have shape (3, 16, 16), the model was made for (3, 8, 8)"),
    ],
)
def test_other_images_are_refused(data, expected):
    assert expected in message(sv.fit, model(), data, epochs=1)


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        (None, "example is a NoneType; expected a tensor or an array of pixels (1, C, H, W), e.g. x[:1]"),
        ((1, 3, 8, 8), "example is a tuple"),
        (X[0], "example has shape (3, 8, 8); expected (1, C, H, W)"),
        (X[:1, :2], "the images of example have shape (1, 2, 8, 8); expected (N, C, H, W) with C = 3"),
        (X[:1].long(), "example is torch.int64; expected floats"),
        (X[0].numpy(), "example has shape (3, 8, 8); expected (1, C, H, W)"),
        (X[:1].numpy().astype(str), "example holds a ndarray, which is no tensor"),
    ],
)
def test_other_examples_are_refused(example, expected):
    assert expected in message(sv.split, network(), "2", example)


def test_an_example_may_be_an_array_as_images_may():
    for example in (X[:1].numpy(), (255 * X[:1]).byte().numpy()):
        assert sv.split(network(), "2", example).wire_shape == (4, 2, 2)


def test_an_example_may_be_of_bytes_or_double():
    for example in ((255 * X[:1]).byte(), X[:1].double()):
        assert sv.split(network(), "2", example).wire_shape == (4, 2, 2)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (network().double(), "the network's weights are torch.float64; expected torch.float32: write net.float()"),
        (len, "network is a builtin_function_or_method; expected a torch.nn.Module"),
    ],
)
def test_other_networks_are_refused(given, expected):
    assert expected in message(sv.split, given, "2", X[:1])


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_another_precision_are_refused(kind):
    given = model().to(kind)
    expected = f"the model's weights are {kind}; expected torch.float32: write model.float()"
    assert expected in message(sv.accuracy, given, (X, Y))
    assert expected in message(sv.harden, given, (X, Y))


def test_a_layer_is_named():
    assert "at is a Conv2d; expected the name of a layer" in message(sv.split, network(), network()[0], X[:1])


def test_a_compiled_network_is_the_network():
    assert sv.split(torch.compile(network()), "2", X[:1]).wire_shape == (4, 2, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        (sv.Gaussian, "the class Gaussian is no registered defense; expected an object of one"),
        (sv.Linear(), "an object of LinearAttack is no registered defense"),
        (None, "an object of NoneType is no registered defense"),
        (sv.CEM(16), "add --defense gaussian:0.025, in Python defenses=[Gaussian(0.025), ...]"),
    ],
)
def test_other_defenses_are_refused(defense, expected):
    assert expected in message(model, defense)


def test_no_defenses_are_none():
    assert len(list(sv.split(network(), "2", X[:1], defenses=None).defense)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [0.5, [0.5], (0.5, 0.5, 0.5), torch.full((3,), 0.5), torch.full((3,), 0.5).numpy()])
def test_a_mean_is_a_number_or_one_for_each_channel(given):
    net = network().eval()
    halves = sv.split(net, "2", X[:1], mean=given, std=given)
    torch.testing.assert_close(halves(X), net(2 * X - 1))


@pytest.mark.parametrize(
    "given", [{"mean": [0.5, 0.5]}, {"std": [0.0] * 3}, {"std": [float("nan")] * 3}, {"mean": 0.5, "std": [0.5] * 3}]
)
def test_a_mean_or_std_that_does_not_fit_is_refused(given):
    assert re.search(r"mean \(.*\) and std \(.*\) do not fit; expected", message(model, **given))


@pytest.mark.parametrize("call", [sv.fit, sv.attack, sv.evaluate])
def test_a_network_that_is_not_split_is_refused(call):
    data = {"learn_from": (X, Y), "invert": (X, Y)} if call is not sv.fit else {"data": (X, Y)}
    first = {"attack": "linear"} if call is sv.attack else {}
    assert "model is a Sequential; expected a SplitModel: model = splitveil.split(" in message(
        call, network(), **first, **data
    )


def test_a_frozen_network_is_refused():
    frozen = sv.split(network().requires_grad_(False), "2", X[:1])
    assert "write net.requires_grad_(True)" in message(sv.fit, frozen, (X, Y), epochs=1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_training_within_no_grad_is_a_training(mode):
    made = model("gaussian:0.1")
    with mode():
        before = [p.clone() for p in made.parameters()]
        sv.fit(made, (X, Y), epochs=1, batch_size=10)
    assert not any(torch.equal(*pair) for pair in zip(before, made.parameters(), strict=True))


def test_a_split_leaves_a_network_in_evaluation_there():
    """Otherwise the first images that go through change the statistics of a trained network."""
    assert not any(
        module.training for module in sv.split(network().eval(), "2", X[:1], defenses=[sv.Gaussian()]).modules()
    )
    assert sv.split(network(), "2", X[:1], defenses=[sv.Gaussian()]).encoder.training


def test_a_loop_of_ones_own_needs_a_split_model():
    assert "model is a Sequential; expected a SplitModel" in message(sv.OwnLoop, network(), epochs=1, images=20)


def test_what_is_encoded_are_pixels_and_noise_has_a_generator():
    assert "pixels are torch.uint8; expected floats in [0, 1]: write x / 255" in message(model(), (255 * X).byte())
    assert "rng is 3; expected a generator: torch.Generator().manual_seed(0)" in message(model("gaussian").encode, X, 3)


def test_a_network_for_single_images_is_refused():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 4, 4), nn.Linear(16, 4)

        def forward(self, x):
            return self.last(self.first(x).view(1, -1))

    assert "the network takes one image at a time" in message(sv.split, Single(), "first", X[:1])


class Tokens(nn.Module):
    """A transformer whose code asks for the length of its batch."""

    def __init__(self):
        super().__init__()
        self.patches, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.zeros(1, 1, 8))
        self.blocks = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.blocks(torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1))[:, 0])


@pytest.mark.parametrize("at", ["patches", "blocks", "blocks.layers.0"])
def test_a_network_may_ask_for_the_length_of_its_batch(at):
    whole = Tokens().eval()
    halves = sv.split(whole, at, X[:1]).eval()
    torch.testing.assert_close(halves(X[:5]), whole(X[:5]), atol=1e-5, rtol=1e-4)


def test_a_state_of_a_pruned_network_is_loaded():
    def made() -> sv.SplitModel:
        torch.manual_seed(0)
        encoder = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3, padding=1), nn.Sigmoid()]
        net = nn.Sequential(*encoder, nn.Flatten(), nn.Linear(512, 4))
        return sv.split(net, "3", X[:1], defenses=["patrol:epoch=1,ratio=0.2"])

    trained, again = made(), made().eval()
    sv.fit(trained, (X, Y), epochs=2, batch_size=10)
    assert trained.state_dict()["encoder.2.weight"].shape != again.state_dict()["encoder.2.weight"].shape
    again.load_state_dict(trained.state_dict())
    assert torch.equal(trained(X), again(X))
