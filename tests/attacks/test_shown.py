"""How networks are shown a wire: neither its scale nor an offset, which anybody can undo, protects anything."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitveil.attacks import _shown
from splitveil.attacks._held_out import Pairs
from splitveil.attacks._shown import Shown, ShownPairs, scale_of
from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.gan import GanAttack
from splitveil.attacks.residual import ResidualAttack
from splitveil.data import Access, Split
from splitveil.defenses.base import Stack
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.model import SplitModel
from splitveil.victim import Victim
from toy import rng

NETWORK: dict[str, Any] = {"network": "conv_normN1C8", "lr": 0.01}
ATTACKS = {
    "decoder": lambda: DecoderAttack(epochs=8, batch_size=16, **NETWORK),
    "gan": lambda: GanAttack(network="conv_normN1C8", warm_epochs=8, warm_batch_size=16, epochs=1, batch_size=16),
    "residual": lambda: ResidualAttack(epochs=2, channels=8, batch_size=16),
}


class Moved(nn.Module):
    """Pixels, four of each color in an entry, multiplied and moved by a pattern that is the same for all images."""

    def __init__(self, factor: float, offset: float):
        super().__init__()
        self.factor, self.offset = factor, offset * torch.randn(12, 4, 4, generator=rng(5)).sign()

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * (nn.functional.pixel_unshuffle(x, 2) + self.offset)


def victim(factor: float = 1.0, offset: float = 0.0, *before: Any) -> Victim:
    defense = Stack(Gaussian(0.1 * factor), *before)
    encoder = Moved(factor, offset)
    grants = frozenset({Access.QUERY})
    return Victim(SplitModel(encoder, nn.Flatten(), defense=defense, layout="channels_first"), grants)


def two_levels(count: int, seed: int) -> Split:
    """Blocks of pixels that are 64 or 191 with equal chance."""
    bits = torch.randint(2, (count, 3, 4, 4), generator=rng(seed)).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return Split((64 + 127 * bits).to(torch.uint8), torch.zeros(count, dtype=torch.long))


def error(name: str, seen: Victim) -> float:
    attack, under = ATTACKS[name](), two_levels(40, seed=1)
    attack.fit(seen, two_levels(200, seed=0), rng())
    return float((attack.reconstruct(seen.query(under.images / 255, rng(1))) - under.images / 255).square().mean())


@pytest.mark.parametrize(("factor", "offset"), [(1e-4, 0.0), (1.0, 100.0), (1e-4, 100.0)])
@pytest.mark.parametrize("name", ATTACKS)
def test_neither_scale_nor_offset_protects(name, factor, offset):
    assert error(name, victim(factor, offset)) < 1.15 * error(name, victim())


def test_an_ordinary_wire_is_shown_as_it_is():
    seen = victim()
    pairs = seen.observe(two_levels(50, seed=0))
    shown = Shown.learn(seen, pairs, rng(), 100)
    assert (shown.sight, shown.scale, shown.offset) == (None, 1.0, None)
    wire = pairs.wire(torch.arange(3), rng())
    assert shown(wire) is wire


def test_masks_beside_the_wire_are_neither_moved_nor_scaled():
    seen = victim(1e-4, 100.0, Dropout(0.3))
    pairs = seen.observe(two_levels(100, seed=0))
    shown = Shown.learn(seen, pairs, rng(), 100)
    found = ShownPairs(pairs, shown).wire(torch.arange(50), rng())
    told, masks = found[:, :12], found[:, 12:]
    assert masks.unique().tolist() == [0.0, 1.0]
    assert 0.1 < float(told.std(0).mean()) < 10
    assert float(told.mean(0).abs().max()) < 1


@pytest.mark.parametrize("count", [1, 2])
def test_few_images_and_wires_that_are_always_the_same_are_shown_all_the_same(count):
    encoder = nn.Conv2d(3, 4, 1)
    nn.init.zeros_(encoder.weight)
    constant = Victim(SplitModel(encoder, nn.Flatten(), layout="channels_first"), frozenset({Access.QUERY}))
    for seen in (victim(), constant):
        pairs: Pairs = seen.observe(two_levels(count, seed=0))
        assert Shown.learn(seen, pairs, rng(), 100)(pairs.wire(torch.arange(count), rng())).isfinite().all()


@pytest.mark.parametrize("spread", [0.0, math.inf, math.nan])
def test_a_spread_that_is_none_scales_nothing(spread):
    assert scale_of(spread) == 1.0


def test_an_offset_that_is_not_subtracted_is_not_rounded_away(monkeypatch):
    """See `_rounding`: where means are not subtracted, a wire far from 0 is not computed with in bf16."""
    from splitveil.attacks import _rounding
    from splitveil.runtime import Runtime

    monkeypatch.setattr(_rounding, "precision", lambda *_: "bf16-mixed")
    for far, expected in ((_shown.FAR, "bf16"), (math.inf, "fp32")):
        monkeypatch.setattr(_shown, "FAR", far)
        attack, runtime = DecoderAttack(epochs=1, batch_size=16, **NETWORK), Runtime()
        attack.fit(victim(1.0, 1000.0), two_levels(100, seed=0), rng(), runtime)
        assert runtime.loops[0].state["precision"] == expected
