"""Weights of large networks without millions of draws, which take longer than all else that a test does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

LARGE = 2**15
_RNG = torch.Generator().manual_seed(0)
POOLS = {
    "normal_": torch.empty(65_521).normal_(generator=_RNG),
    "uniform_": torch.empty(65_521).uniform_(generator=_RNG),
}
"""A prime number of values each, so that no two rows of a weight are alike."""


def quick(name: str) -> Callable[..., Tensor]:
    """`Tensor.normal_` or `Tensor.uniform_`, which fills large tensors from a pool, at a place that it draws."""
    draw, pool = getattr(Tensor, name), POOLS[name]

    def fill(self: Tensor, *given: float, **named: Any) -> Tensor:
        kind = self.device.type
        if kind == "meta":  # torch would ask a mode of functions for this function instead of its own
            return self
        if self.numel() < LARGE or kind != "cpu" or named.keys() - {"generator"}:
            return draw(self, *given, **named)
        first, second = (*given, *(0.0, 1.0)[len(given) :])
        generator = named.get("generator")
        start = int(torch.randint(len(pool), (), generator=generator))
        with torch.no_grad():
            values = pool.roll(start).repeat(-(-self.numel() // len(pool)))[: self.numel()]
            scale = second if name == "normal_" else second - first
            return self.copy_(values.view(self.shape)).mul_(scale).add_(first)

    return fill


@pytest.fixture
def quick_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are built here have weights that look drawn, and follow from the seed as drawn ones do."""
    for name in POOLS:
        monkeypatch.setattr(Tensor, name, quick(name))
