"""How a model shows itself, and what tells it from others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil.defenses.codec import codec_of
from splitveil.model import digest_of

X, Y = torch.rand(40, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


def made(*defenses: Any, middle: nn.Module | None = None, seed: int = 0) -> sv.SplitModel:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), middle or nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 2))
    return sv.split(net, at="1", example=X[:1], defenses=defenses)


def test_a_model_is_shown_in_a_line_and_one_for_each_defense():
    model = made(sv.Gaussian(0.1), sv.Adversarial(1.0))  # the second trains a network of its own
    head, first, second = repr(model).splitlines()
    assert head == (
        "SplitModel(cut after '1': images (3, 12, 12) -> wire (4, 3, 3), 144 bytes; 196 weights on the device, "
        "74 in the cloud)"
    )
    assert first == "  Gaussian(sigma=0.1)"
    assert second.startswith("  Adversarial(weight=1.0, ")
    assert "Conv2d" in repr(model.encoder)


def test_a_model_of_two_halves_and_one_without_an_example_say_so():
    halves = nn.Conv2d(3, 4, 4, 4), nn.Flatten()
    assert repr(sv.SplitModel(*halves, example=X[:1])).startswith("SplitModel(made of two halves: images (3, 12, 12)")
    assert "its shapes are not known, as it was made without an example" in repr(sv.SplitModel(*halves))
    sent = "196 weights on the device, 0 in the cloud)"
    assert repr(sv.SplitModel(*halves)).endswith(sent)


@pytest.mark.parametrize(
    "other",
    [
        lambda: made(sv.Gaussian(0.2)),  # no weight says how strong the noise is
        lambda: made(sv.Gaussian(0.1), sv.TopK(0.5)),
        lambda: made(sv.Gaussian(0.1), middle=nn.Tanh()),
        lambda: made(sv.Gaussian(0.1), seed=1),
        lambda: made(),
    ],
)
def test_a_digest_tells_models_apart_in_weights_layers_and_settings(other: Callable[[], sv.SplitModel]):
    assert digest_of(made(sv.Gaussian(0.1))) == digest_of(made(sv.Gaussian(0.1)))
    assert digest_of(other()) != digest_of(made(sv.Gaussian(0.1)))


def test_a_digest_stays_when_a_model_is_used_saved_and_read_back(tmp_path):
    model = made(sv.Gaussian(0.1))
    sv.fit(model, (X, Y), epochs=1, batch_size=20, progress=False)
    before = digest_of(model)
    sv.attack(model, "linear", learn_from=(X[:20], Y[:20]), invert=(X[20:], Y[20:]), progress=False)
    sv.save(model, tmp_path / "mine")
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 2))
    assert before == digest_of(model) == digest_of(sv.load(tmp_path / "mine", network=net).model)


@pytest.mark.parametrize("codec", ["uint4", "float16"])
def test_a_model_behind_a_codec_keeps_its_grid_when_it_is_saved_and_read_back(tmp_path, codec):
    model = made(sv.Gaussian(0.1))
    coded = sv.with_codec(model, codec, train=(X, Y))
    sv.save(coded, tmp_path / "coded")
    net = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.Sigmoid(), nn.Flatten(), nn.Linear(36, 2))
    read = sv.load(tmp_path / "coded", network=net).model
    assert digest_of(read) == digest_of(coded) != digest_of(model)
    assert read.bytes_sent == coded.bytes_sent == {"uint4": 18, "float16": 72}[codec]
    assert digest_of(sv.with_codec(read, "auto", train=(X, Y))) == digest_of(coded)  # it has one already
    assert codec_of(model.defense) is None
