"""The attacks that see less than the wire: answers only, or no query at all; and the decoders made for them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import toy
from splitveil import metrics
from splitveil.attacks._substitute import imitated, place_of
from splitveil.attacks.base import Victim
from splitveil.attacks.confidence import ConfidenceAttack, answered
from splitveil.attacks.shadow import WIDTHS, ShadowAttack, Substitute, mk_mmd
from splitveil.data import Access
from splitveil.defenses._law import Law
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.zoo import decoders
from toy import rng


def error(attack, victim: Victim, n: int = 400) -> float:
    truth = toy.pixels(toy.images(n, 2))
    return float(metrics.mse(attack.reconstruct(victim.query(truth, rng(3))), truth).mean())


# Confidence


def test_logits_that_are_the_wire_give_the_mmse():
    """The toy's tail only flattens: its answers carry all of the wire, and a trained attack comes near the optimum."""
    model, weight = toy.model(48, 0.05, (12, 2, 2))
    victim = Victim(model, frozenset({Access.QUERY, Access.LOGITS}))
    attack = ConfidenceAttack(8, "dense_normN0C16", lr=2e-2, batch_size=128)
    attack.fit(victim, toy.images(4000, 1), rng())
    found = error(attack, victim)
    assert toy.mmse(weight, 0.05) < found < 1.15 * toy.mmse(weight, 0.05)
    assert attack.curve()[-1] < attack.curve()[0]


class First(nn.Module):
    """Answers with the first of the wire's numbers only."""

    def forward(self, wire):
        return wire.flatten(1)[:, :1]


def test_it_sees_nothing_but_the_answers():
    model, _ = toy.model(24, 0.0, (24, 1, 1))
    victim = Victim(
        SplitModel(model.encoder, First(), layout="channels_first"), frozenset({Access.QUERY, Access.LOGITS})
    )
    attack = ConfidenceAttack(1, "dense_normN0C8")
    attack.fit(victim, toy.images(40, 1), rng())
    wire = torch.randn(3, 24, 1, 1, generator=rng())
    other = wire.clone()
    other[:, 1:] = 7.0
    assert torch.equal(attack.reconstruct(wire), attack.reconstruct(other))
    other[:, 0] = 7.0
    assert not torch.equal(attack.reconstruct(wire), attack.reconstruct(other))


def test_answers_are_standardised():
    """Logits in hundreds are no harder than logits in hundredths."""
    curves = []
    for scale in (1e-2, 1e2):
        model, _ = toy.model(12, 0.0)

        class Scaled(nn.Module):
            def __init__(self, scale):
                super().__init__()
                self.scale = scale

            def forward(self, wire):
                return self.scale * wire + 5

        victim = Victim(SplitModel(model.encoder, Scaled(scale), layout="channels_first"), frozenset(Access))
        attack = ConfidenceAttack(2, "dense_normN0C8", batch_size=32)
        attack.fit(victim, toy.images(100, 1), rng())
        curves.append(attack.curve())
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


# Shadow


def test_discrepancy_is_that_of_brute_force():
    a, b = torch.randn(6, 3, generator=rng(1)), torch.randn(5, 3, generator=rng(2)) + 1
    rows = torch.cat([a, b]).double().numpy()
    squared = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    flat = np.sort(squared.ravel())
    median = flat[(len(flat) - 1) // 2]
    kernel = np.mean([np.exp(-squared / (width * median)) for width in WIDTHS], axis=0)
    expected = kernel[:6, :6].mean() + kernel[6:, 6:].mean() - 2 * kernel[:6, 6:].mean()
    assert float(mk_mmd(a, b)) == pytest.approx(expected, rel=1e-4)


def test_discrepancy_tells_distributions_apart():
    same = float(mk_mmd(torch.randn(200, 4, generator=rng(1)), torch.randn(200, 4, generator=rng(2))))
    moved = float(mk_mmd(torch.randn(200, 4, generator=rng(1)), torch.randn(200, 4, generator=rng(2)) + 1))
    assert 0 <= same < 0.02 < 0.1 < moved


def test_the_substitute_takes_on_the_distribution_of_the_wire():
    model, _ = toy.model(48, 0.05, (12, 2, 2))
    victim = Victim(model, frozenset({Access.QUERY}))
    wire, own = victim.query(toy.pixels(toy.images(200, 2)), rng(3)), toy.images(200, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = Substitute((12, 2, 2))(toy.pixels(own)).detach()
    attack = ShadowAttack(epochs=1, steps=60, network="custom", lr=3e-3, batch_size=64)
    attack.fit(victim, own, rng())
    attack.reconstruct(wire)
    assert attack.encoder is not None
    after = attack.encoder(toy.pixels(own)).detach()
    assert float(mk_mmd(after.flatten(1), wire.flatten(1))) < 0.3 * float(mk_mmd(before.flatten(1), wire.flatten(1)))


class Placed(nn.Module):
    """What an encoder answers, multiplied and moved by a pattern that is the same for all images."""

    def __init__(self, encoder: nn.Module, factor: float, offset: float):
        super().__init__()
        self.encoder, self.factor = encoder, factor
        self.offset = offset * torch.randn(12, 2, 2, generator=rng(5)).sign()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * (self.encoder(x) + self.offset)


@pytest.mark.parametrize(("factor", "offset"), [(1.0, 0.0), (1.0, 1e3), (1e4, 0.0), (1e-4, 1e3)])
def test_neither_scale_nor_offset_of_the_wire_is_beyond_the_substitute(factor, offset):
    """Rates of 3e-3 in 60 steps never came to an offset of 1,000: the discrepancy stayed where it began."""
    plain, _ = toy.model(48, 0.0, (12, 2, 2))
    encoder = Placed(plain.encoder, factor, offset)
    model = SplitModel(encoder, plain.tail, defense=[Gaussian(0.05 * factor)], layout="channels_first")
    victim, own = Victim(model, frozenset({Access.QUERY})), toy.images(200, 1)
    wire = victim.query(toy.pixels(toy.images(200, 2)), rng(3))
    assert (place_of(wire, victim.law(wire)) is None) == ((factor, offset) == (1, 0))
    attack = ShadowAttack(epochs=1, steps=60, network="custom", lr=3e-3, batch_size=64)
    attack.fit(victim, own, rng())
    answers = attack.reconstruct(wire)
    assert answers.isfinite().all()
    assert attack.encoder is not None
    after = attack.encoder(toy.pixels(own)).detach()
    a, b = (value / factor - encoder.offset for value in (after, wire))
    assert float(mk_mmd(a.flatten(1), b.flatten(1))) < 0.2


def test_what_the_law_adds_is_no_offset_of_the_substitute():
    """Hidden entries would spread a wire far from zero, and a known offset is added again."""
    wire = 1e3 + torch.randn(200, 2, 3, 3, generator=rng())
    visible = torch.rand(wire.shape, generator=rng(1)) < 0.5
    hidden, shifted = Law(visible=visible), Law(None, offsets=torch.full((1, 2, 3, 3), 400.0))
    for place, expected in ((place_of(wire * visible, hidden), 1e3), (place_of(wire, shifted), 600.0)):
        assert place is not None
        assert place[1] == pytest.approx(4, abs=0.2)
        torch.testing.assert_close(place[0], torch.full((1, 2, 3, 3), expected), atol=0.6, rtol=0)
    assert place_of(wire - 1e3, Law()) is None


@pytest.mark.parametrize("law", [Law(900.0), Law(torch.full((4, 4, 4), 900.0)), Law(900.0, laplace=900.0)])
@pytest.mark.parametrize(("spread", "expected"), [(0.1, None), (100.0, 100.0)])
def test_the_size_of_the_noise_is_no_size_of_the_substitute(law, spread, expected):
    """Features of spread 0.1 beneath noise of 30 gave a scale of 121: the noise's spread, though it is added again."""
    z = spread * torch.randn(500, 4, 4, 4, generator=rng(1))
    place = place_of(imitated(z, law, rng(2)), law)
    assert (place is None) == (expected is None)
    if place is not None:
        assert place[1] == pytest.approx(4 * expected, rel=0.03)


def test_the_spread_of_known_offsets_is_no_size_of_the_substitute():
    """Features of spread 1 with 20 offsets of spread 30 gave a scale of 118."""
    z = torch.randn(500, 4, 4, 4, generator=rng(1))
    law = Law(None, offsets=30 * torch.randn(20, 4, 4, 4, generator=rng(3)), beside=4.0)
    assert place_of(imitated(z, law, rng(2)), law) is None
    far, large = (place_of(imitated(value, law, rng(2)), law) for value in (z + 1e3, 300 * z))
    assert far is not None
    assert far[1] <= 1
    assert float(far[0].mean()) == pytest.approx(1e3, rel=0.01)
    assert large is not None
    assert large[1] == pytest.approx(1200, rel=0.05)


def test_it_never_asks_the_victim():
    nothing = Victim(toy.model(48, 0.05, (12, 2, 2))[0], frozenset())
    attack = ShadowAttack(epochs=1, steps=2, network="custom", batch_size=8)
    attack.fit(nothing, toy.images(30, 1), rng())
    with torch.no_grad():  # as evaluations call it
        first = attack.reconstruct(torch.randn(5, 12, 2, 2, generator=rng()))
        encoder = attack.encoder
        attack.reconstruct(torch.randn(5, 12, 2, 2, generator=rng()))
    assert first.shape == (5, 3, 4, 4)
    assert attack.encoder is encoder  # aligned once
    assert attack.needs == frozenset()


@pytest.mark.parametrize("bad", [{"steps": 0}, {"alignment": -1.0}, {"lr": 0.0}])
def test_bad_shadow_settings(bad):
    with pytest.raises(UserError, match=f"shadow: {next(iter(bad))} is"):
        ShadowAttack(**bad)


def test_a_flat_wire_is_refused():
    attack = ShadowAttack(steps=1)
    attack.fit(Victim(toy.model(8, 0.1)[0], frozenset()), toy.images(5, 0), rng())
    with pytest.raises(UserError, match=r"shadow: the wire is \(8,\); expected a feature map"):
        attack.reconstruct(torch.zeros(2, 8))


# Decoders


def receptive(name: str, shape: tuple[int, int, int], size: int) -> float:
    """Part of the feature's entries that the corner pixel depends on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = decoders.build(name, feature_shape=shape, image_size=size).eval()
    z = torch.randn(1, *shape, generator=rng()).requires_grad_()
    decoder(z)[0, :, 0, 0].sum().backward()
    assert z.grad is not None
    return float((z.grad[0].abs().sum(0) > 0).float().mean())


def test_the_unet_and_the_dense_decoder_see_the_whole_feature():
    assert receptive("conv_normN0C8", (4, 8, 8), 32) < 0.3
    assert receptive("unet_normN1C8", (4, 8, 8), 32) == 1
    assert receptive("dense_normN0C8", (4, 8, 8), 32) == 1


@pytest.mark.parametrize("name", ["unet_normN0C8", "dense_normN1C8"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [((8, 8, 8), 32), ((3, 10, 10), 48), ((4, 5, 6), 32), ((2, 40, 40), 32), ((512, 1, 1), 64), ((3, 1, 1), 2)],
)
def test_they_come_out_at_the_size_of_the_image(name, shape, size):
    images = decoders.build(name, feature_shape=shape, image_size=size)(
        torch.randn(2, *shape, generator=rng())
    ).detach()
    assert images.shape == (2, 3, size, size)
    assert 0 <= float(images.min()) <= float(images.max()) <= 1


def test_the_substitute_is_seen_through_the_defense():
    """Behind dropout the substitute's features are hidden as the wires are, and its decoder is told where."""
    model, _ = toy.model(48, 0.0, (12, 2, 2))
    model.defense = Dropout(0.5)
    victim = Victim(model, frozenset({Access.QUERY}))
    wire, own = victim.query(toy.pixels(toy.images(200, 2)), rng(3)), toy.images(200, 1)
    attack = ShadowAttack(epochs=1, steps=80, network="custom", lr=3e-3, batch_size=64)
    attack.fit(victim, own, rng())
    attack.reconstruct(wire)
    assert attack.encoder is not None
    z = attack.encoder(toy.pixels(own)).detach()
    assert float(z.eq(0).float().mean()) < 0.01
    crossing = imitated(z, victim.law(wire), rng(), torch.arange(200))
    assert torch.equal(crossing == 0, wire == 0)
    assert float(mk_mmd(crossing.flatten(1), wire.flatten(1))) < 0.1 * float(mk_mmd(z.flatten(1), wire.flatten(1)))
    assert next(attack._decoder.decoder.parameters()).shape[1] == 24


@pytest.mark.parametrize(
    "law", [Law(0.04), Law(0.05).with_noise(0.03, "laplace"), Law(torch.full((12, 2, 2), 0.3)), Law(0.0)]
)
def test_imitated_noise_is_as_told(law):
    z = torch.zeros(4000, 12, 2, 2)
    told = float(torch.as_tensor(law.variance).mean())
    assert float(imitated(z, law, rng()).var()) == pytest.approx(told, rel=0.05)


def test_of_several_wires_each_is_answered():
    model, _ = toy.model(48, 0.05, (12, 2, 2))
    model.tail = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 10), torch.nn.Softmax(1))
    attack = ConfidenceAttack(epochs=1)
    victim = Victim(model, frozenset({Access.QUERY, Access.LOGITS}), 3).of(attack)
    looks = victim.query(toy.pixels(toy.images(5, 1)), rng())
    each = torch.stack([victim.logits(looks[:, i]) for i in range(3)])
    assert torch.allclose(answered(victim, looks), each.mean(0))
    assert not torch.allclose(answered(victim, looks), victim.logits(victim.one_wire(looks)), atol=1e-6)
