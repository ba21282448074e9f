"""Draws become inputs: every registered defense is exported and agrees with PyTorch, or is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.gaussian import Gaussian
from splitveil.deploy.draws import Draw, Replay, trace
from splitveil.deploy.graphs import Session, onnx_bytes
from splitveil.deploy.halves import Receiver, Replayed, Sender, noisy_parts
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.registry import Registry

REFUSED = {
    "adversarial_noise": "adversarial_noise asks for gradients on the wire",
    "topk:released": "topk lets the wire of an image depend on the images beside it",
}
"""The defenses that cannot be deployed, and why."""
CASES = {
    "bottleneck": {"channels": 2, "kernel": 1},
    "sparse_coding": {"iterations": 2},
    "sparse_coding_conv_released": {"iterations": 2, "kernel": 3},
    "topk:released": {"scope": "released"},
    "patrol": {"double": False, "ratio": 0.3},
    "adversarial": {"network": "res_normN1C4"},
    "adversarial_noise": {"network": "res_normN1C4"},
}
NAMES = [*sorted(names[0] for names, _ in Registry("defenses").families()), "topk:released"]
X = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build(name: str) -> SplitModel:
    """A network of two layers with one defense, whose matrices are there where it has any."""
    torch.manual_seed(0)
    kind = Registry("defenses").get(name.partition(":")[0])
    defense = kind(**CASES.get(name, {}))
    encoder = nn.Sequential(nn.Conv2d(3, 4, 4, 4))
    if name == "patrol":  # it removes channels within the encoder
        encoder = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    stack = Stack(Gaussian(0.1), defense) if name == "cem" else Stack(defense)
    model = SplitModel(encoder, nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), defense=stack, example=X[:1])
    shape = model.wire_shape
    model.tail(torch.zeros(1, *shape))
    draw: dict[str, Any] = {"generator": rng(1)}
    if name == "linear":
        defense.mean, defense.basis = torch.randn(16, **draw), torch.linalg.qr(torch.randn(16, 3, **draw))[0]
    if name == "waterfill":
        defense.center, defense.matrix = torch.randn(16, **draw), torch.randn(3, 16, **draw)
        defense.estimate = torch.randn(16, 3, **draw)
    if name == "waterfill_kronecker":
        square = {"channels": 4, "places": 4, "channels_back": 4, "places_back": 4}
        for key, size in square.items():
            setattr(defense, key, torch.randn(size, size, **draw))
        defense.center, defense.kept = torch.randn(16, **draw), torch.tensor([1, 5, 6])
        defense.scale, defense.gain = torch.rand(3, **draw), torch.rand(3, **draw)
    return model.eval().requires_grad_(False)


class Together(nn.Module):
    """The halves of many models in one graph, so that one export checks them all; equal tails are there once."""

    def __init__(self, halves: dict[str, tuple[Replayed, Receiver]]):
        super().__init__()
        self.send = nn.ModuleDict({name: half[0] for name, half in halves.items()})
        self.receive = nn.ModuleDict({name: half[1] for name, half in halves.items() if half[1].last is not None})

    def forward(self, x: Tensor, numbers: tuple[tuple[Tensor, ...], ...]) -> tuple[Tensor, ...]:
        sent = {name: half(x, some) for (name, half), some in zip(self.send.items(), numbers, strict=True)}
        return (*sent.values(), *(half(sent[name]) for name, half in self.receive.items()))


def plain(model: SplitModel) -> bool:
    """Whether the defense has left the network as it was."""
    return [type(layer) for layer in model.encoder.children()] == [nn.Conv2d]


def test_every_registered_defense_is_exported_and_agrees_or_is_refused_by_name(quick_exports):
    halves, draws = {}, {}
    for name in NAMES:
        model = build(name)
        send = Sender(model)
        if name in REFUSED:
            with pytest.raises(UserError, match=REFUSED[name]):
                send.draws(X)
            continue
        draws[name] = send.draws(X)
        if not noisy_parts(model) and plain(model):
            assert draws[name] == []
            assert torch.equal(send(X, rng()), model.features(X))
            continue  # it acts in the training alone: the graph is that of any network
        halves[name] = Replayed(send, draws[name]), Receiver(model)
        with torch.no_grad():  # the halves are the model
            numbers = [draw.sample(5, rng(2)) for draw in draws[name]]
            with Replay(draws[name], numbers):
                logits = model(X, rng())
            torch.testing.assert_close(halves[name][1](halves[name][0](X, numbers)), logits)
    together = Together(halves)
    sample = tuple(tuple(draw.sample(5, rng(3)) for draw in draws[name]) for name in halves)
    inputs = ["x", *(f"{name}.{draw.name}" for name in halves for draw in draws[name])]
    outputs = [*(f"sent.{name}" for name in together.send), *(f"logits.{name}" for name in together.receive)]
    assert list(together.receive) == ["waterfill", "waterfill_kronecker"]
    session = Session(onnx_bytes(together, (X, sample), inputs, outputs))
    for count in (1, 4):
        some = tuple(tuple(one[:count] for one in numbers) for numbers in sample)
        expected = together(X[:count], some)
        given = [X[:count], *(one for numbers in some for one in numbers)]
        for name, found, wanted in zip(
            outputs, session.all(dict(zip(inputs, given, strict=True))), expected, strict=True
        ):
            scale = max(1.0, float(wanted.abs().max()))
            assert float((found - wanted).abs().max()) <= 1e-4 * scale, name


def test_the_device_sends_the_numbers_from_which_the_cloud_makes_the_wire():
    model = build("waterfill")
    assert Sender(model)(X, rng()).shape == (5, model.numbers_sent)
    assert not any(name.startswith("network.tail") for name in Sender(model).state_dict())


class Drawing(Defense):
    """Adds what a function draws in the shape of the wire."""

    def __init__(self, draw):
        super().__init__()
        self.draw = draw

    def on_wire(self, z, rng):
        return z + self.draw(z, rng)


MOVED = {
    "normal_": (lambda z, rng: torch.empty_like(z).normal_(1.0, 3.0, generator=rng), "normal"),
    "uniform_": (lambda z, rng: torch.empty_like(z).uniform_(-2, 3, generator=rng), "uniform"),
    "filled": (lambda z, rng: _filled(torch.empty_like(z), rng), "exponential"),
    "randint": (lambda z, rng: torch.randint(2, 7, z.shape, generator=rng), "integer"),
    "randint, high by name": (lambda z, rng: torch.randint(2, high=7, size=z.shape, generator=rng), "integer"),
    "randint, both by name": (lambda z, rng: torch.randint(low=2, high=7, size=z.shape, generator=rng), "integer"),
    "randint, one bound": (lambda z, rng: torch.randint(5, z.shape, generator=rng), "integer"),
    "double": (lambda z, rng: torch.rand(z.shape, generator=rng, dtype=torch.float64).float(), "uniform"),
    "axis 1": (lambda z, rng: torch.randn((4, z.shape[0], 2, 2), generator=rng).movedim(1, 0), "normal"),
}


def _filled(noise, rng):
    noise.exponential_(2.0, generator=rng)
    return noise


@pytest.mark.parametrize("name", MOVED)
def test_a_call_that_draws_is_answered_as_it_was(name):
    """The numbers that a call took from a generator, handed in, give the wire that it gave."""
    draw, kind = MOVED[name]
    z = torch.rand(3, 4, 2, 2, generator=rng(5))
    (found,) = trace(Drawing(draw).on_wire, z, name)  # it holds the replay against the recording
    assert (found.kind, found.shape, found.high) == (kind, (4, 2, 2), 5 if kind == "integer" else None)
    numbers = found.sample(400, rng(1))
    with Replay([found], [numbers]):
        made = Drawing(draw).on_wire(torch.zeros(400, 4, 2, 2), rng())
    direct = draw(torch.zeros(400, 4, 2, 2), rng(2)).float()
    assert float(made.float().mean()) == pytest.approx(float(direct.mean()), abs=0.25)
    assert float(made.float().std()) == pytest.approx(float(direct.std()), rel=0.1)


STUCK = {
    "torch.bernoulli": lambda z, rng: torch.bernoulli(torch.full_like(z, 0.5), generator=rng),
    "torch.normal": lambda z, rng: torch.normal(0.0, 1.0, z.shape, generator=rng),
    "torch.nn.functional.dropout": lambda z, rng: nn.functional.dropout(z, 0.5),
    "numbers that are not torch's": lambda z, rng: torch.from_numpy(np.random.default_rng().random(z.shape)).float(),
    "expected one axis that counts the images": lambda z, rng: torch.randn(z.shape[1:], generator=rng),
}


@pytest.mark.parametrize("reason", STUCK)
def test_what_cannot_become_an_input_is_refused_with_its_name(reason):
    model = SplitModel(nn.Conv2d(3, 4, 3), nn.Flatten(), defense=[Gaussian(0.1), Drawing(STUCK[reason])]).eval()
    with pytest.raises(UserError, match="drawing .*" + reason) as caught:
        Sender(model).draws(X)
    assert "\n" not in str(caught.value)


def test_numbers_have_the_law_of_their_kind():
    assert Draw("n", "integer", (3,), high=4).sample(1000, rng()).unique().tolist() == [0, 1, 2, 3]
    assert float(Draw("n", "exponential", (3,)).sample(4000, rng()).mean()) == pytest.approx(1, abs=0.05)
    assert float(Draw("n", "uniform", (3,)).sample(4000, rng()).mean()) == pytest.approx(0.5, abs=0.02)
    assert float(Draw("n", "normal", (3,)).sample(4000, rng()).std()) == pytest.approx(1, abs=0.05)
