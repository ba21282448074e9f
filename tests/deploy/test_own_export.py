"""A model that was made in Python becomes a bundle that devices and servers read, or is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import splitveil as sv
from splitveil.deploy import bundle
from splitveil.deploy.graphs import Session

X = torch.rand(40, 1, 12, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


def model_of(*defenses: Any) -> sv.SplitModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Sigmoid(), nn.Flatten(), nn.Linear(192, 3))
    return sv.split(net, at="1", example=X[:1], defenses=list(defenses), mean=[0.5], std=[0.3])


def test_a_gray_network_of_ones_own_is_exported_and_answers_as_in_python(tmp_path):
    model = model_of(sv.Gaussian(0.05))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = sv.export(
        model, tmp_path / "bundle", train=(X, Y), test=(X, Y), classes=["a", "b", "c"], name="mine", codec="float32"
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(value.requires_grad for value in model.parameters())
    read = bundle.read(found.out)
    assert read.wire["classes"] == ["a", "b", "c"]
    assert read.wire["image"]["shape"] == [12, 16, 1]
    assert (read.wire["name"], read.wire["audit"]) == ("mine", None)
    from splitveil_edge import bundle as device_bundle
    from splitveil_edge.encode import Encoder

    pixels = (X * 255).round().byte().permute(0, 2, 3, 1).numpy()
    wires = Encoder(device_bundle.read(found.out / "device"))(pixels)
    tail = Session((found.out / "cloud" / "tail.onnx").read_bytes())
    logits = tail({"wire": torch.tensor(wires)}).numpy()
    clean = model.eval().tail(model.features(torch.tensor(pixels).permute(0, 3, 1, 2) / 255)).detach().numpy()
    assert np.abs(logits - clean).max() < 0.6  # noise of 0.05 through a linear layer


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"classes": ["a", "b"]}, "classes has 2 names, the network has 3 outputs"),
        ({"codec": "zip"}, "codec 'zip'; expected one of"),
        ({"name": "My model"}, "name 'My model'; expected 1 to 64"),
        ({"test": (X[:, :, :, :12], Y)}, "the images of test have shape"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(tmp_path, more, message):
    given = {"train": (X, Y), "test": (X, Y)} | more
    with pytest.raises(sv.UserError, match=message):
        sv.export(model_of(sv.Gaussian(0.05)), tmp_path / "bundle", **given)
    assert not (tmp_path / "bundle").exists()


def test_a_wire_without_noise_is_refused_in_words_of_python(tmp_path):
    with pytest.raises(sv.UserError, match="allow_undefended=True"):
        sv.export(model_of(), tmp_path / "bundle", train=(X, Y), test=(X, Y))
    sv.export(model_of(), tmp_path / "bundle", train=(X, Y), test=(X, Y), allow_undefended=True)
    assert bundle.read(tmp_path / "bundle").wire["draws"] == []
