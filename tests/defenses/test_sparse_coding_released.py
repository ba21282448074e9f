"""The released sparse coding in networks that were cut at a layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import splitveil as sv

pytestmark = pytest.mark.usefixtures("quick_weights")


@pytest.mark.parametrize("name", ["sparse_coding_released", "sparse_coding_conv_released"])
@pytest.mark.parametrize("norm", [False, True])
def test_the_layer_stands_before_what_ends_the_encoder_of_a_cut_network(name, norm):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 2, 1), *([nn.BatchNorm2d(4)] if norm else []), nn.Sigmoid(), nn.Flatten()]
    network = nn.Sequential(*layers, nn.Linear(256, 2)).eval()
    x = torch.rand(5, 3, 16, 16)
    plain = sv.split(network, at=str(len(layers) - 2), example=x[:1])
    model = sv.split(network, at=str(len(layers) - 2), example=x[:1], defenses=name)
    layer = model.encoder.get_submodule("sparse_coding").eval()
    expected = layer(network[0](x))
    for part in network[1 : len(layers) - 1]:
        expected = part(expected)
    assert torch.allclose(model.features(x), expected, atol=1e-6)
    assert not torch.allclose(model.features(x), plain.features(x), atol=1e-3)
    assert model(x).shape == (5, 2)
