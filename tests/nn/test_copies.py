"""Networks that hold results of a computation with gradients are cut, trained, attacked and hardened."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import splitveil as sv

X, Y = torch.rand(180, 3, 12, 12, generator=torch.Generator().manual_seed(0)), torch.arange(180) % 3


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_network_with_weights_that_were_computed_is_copied_everywhere():
    """`copy.deepcopy` ended each of these calls with a traceback once the network had run with gradients."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.utils.weight_norm(nn.Conv2d(3, 8, 4, 4))
        last = nn.utils.spectral_norm(nn.Linear(72, 3))
        network = nn.Sequential(first, nn.Sigmoid(), nn.Flatten(), last)
    network(X).sum().backward()
    model = sv.split(network, "1", X[:1], defenses=["gaussian:0.1"])
    expected = model.encode(X[:4])
    sv.fit(model, (X, Y), epochs=1, batch_size=30, progress=False)
    assert not torch.equal(model.encode(X[:4]), expected)  # the copy has learned
    model.train()(X).sum().backward()
    result = sv.attack(model, "linear", learn_from=(X[:40], Y[:40]), invert=(X[40:], Y[40:]), progress=False)
    assert result.mse < 0.2
    hardened = sv.harden(model, (X, Y), max_drop=100)
    assert hardened.model.wire_shape == model.wire_shape
