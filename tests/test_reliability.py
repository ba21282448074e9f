"""Each reason not to trust an evaluation, with a case that has it and one that has not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import toy
from splitveil import reliability
from splitveil.attacks.base import Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.linear import LinearAttack
from splitveil.attacks.nearest import NearestAttack
from splitveil.attacks.rmle import RmleAttack
from splitveil.attacks.shadow import ShadowAttack
from splitveil.data import Access, Split
from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.laplace import Laplace
from splitveil.defenses.local_dp import LocalDP
from splitveil.defenses.topk import TopK
from splitveil.split import SplitModel
from toy import rng

QUERY, WHITE = frozenset({Access.QUERY}), frozenset({Access.QUERY, Access.WEIGHTS})
IMAGES = toy.images(40, 1)


def model(defense: nn.Module | None) -> SplitModel:
    plain, _ = toy.model(24, 0.0)
    return SplitModel(plain.encoder, plain.tail, defense=defense).eval()


class Frozen(Gaussian):
    """Claims noise, and adds the same every time."""

    def on_wire(self, z, rng):
        return z + self.sigma * torch.ones_like(z)


class Centered(Defense):
    """Takes the batch's mean away: what is alone vanishes."""

    def on_wire(self, z, rng):
        return z - z.mean(0)


NOISES = (
    lambda: Gaussian(0.01),
    lambda: Gaussian(0.1),
    lambda: Laplace(0.05),
    lambda: Dropout(0.2),
    lambda: LocalDP(50.0),
)


@pytest.mark.parametrize(
    ("defense", "reason"),
    [
        (None, None),
        (Gaussian(0.1), None),
        (Gaussian(0.0), None),
        (TopK(0.2), None),
        (Stack(Gaussian(0.1), TopK(0.2)), None),
        (Frozen(0.1), "claims noise of variance 0.01, but two looks at one image are equal"),
        (Centered(), "depends on the images beside it"),
        (TopK(0.2, scope="released"), "depends on the images beside it"),
        *((Stack(noise(), TopK(0.2, scope="released")), "images beside it") for noise in NOISES),
        *((Stack(Centered(), noise()), "images beside it") for noise in NOISES),
        *((Stack(TopK(0.2), noise()), None) for noise in NOISES),
        (Stack(Dropout(0.5), Gaussian(2.0)), None),
    ],
)
def test_what_is_wrong_with_the_wire(defense, reason):
    found = reliability.of_model(model(defense), IMAGES)
    assert len(found) == bool(reason)
    assert reason is None or reason in found[0]


def queries(attack, defense: Defense) -> list[str]:
    made = model(defense)
    victim = Victim(made, frozenset(Access))
    attack.fit(victim, IMAGES, rng())
    return reliability.of_queries(made, victim, attack.needs, IMAGES)


@pytest.mark.parametrize(
    ("attack", "flagged"),
    [
        (LinearAttack(looks=1), True),
        (LinearAttack(looks=4), False),
        (NearestAttack(looks=1), True),
        (NearestAttack(looks=2), False),
        (RmleAttack(steps=1, tv=0.0, l2=0.0), False),  # draws its own noise
        (RmleAttack(steps=1, tv=0.0, l2=0.0, start="linear"), False),
        (ShadowAttack(), False),  # asks for nothing
    ],
)
def test_a_stochastic_defense_attacked_without_fresh_noise(attack, flagged):
    found = queries(attack, Gaussian(0.1))
    assert len(found) == flagged
    assert not flagged or "had only 1" in found[0]
    assert queries(attack, Gaussian(0.0)) == []  # nothing to redraw


def test_a_decoder_of_one_epoch_has_seen_one_draw():
    plain, _ = toy.model(48, 0.05, (12, 2, 2))
    for epochs, flagged in ((1, True), (2, False)):
        victim, attack = Victim(plain, QUERY), DecoderAttack(epochs, "custom")
        attack.fit(victim, IMAGES, rng())
        assert victim.looks() == pytest.approx(epochs, abs=0.1)
        assert len(reliability.of_queries(plain, victim, attack.needs, IMAGES)) == flagged


def test_a_black_box_attack_that_beats_the_white_box():
    base = torch.rand(50, generator=rng())
    needs = {"rmle": WHITE, "latent": WHITE, "decoder": QUERY, "linear": QUERY}
    values = {"rmle": base + 0.1, "latent": base + 0.3, "decoder": base, "linear": base + 0.2}
    (flag,) = reliability.black_box_wins(values, needs)
    assert flag.startswith("decoder, which sees the wire only, beats rmle")
    assert reliability.black_box_wins({**values, "latent": base - 0.01}, needs) == []
    # A difference within its interval is no victory.
    noise = 0.2 * torch.randn(50, generator=rng(1))
    assert reliability.black_box_wins({"rmle": base + noise - noise.mean() + 1e-3, "decoder": base}, needs) == []
    assert reliability.black_box_wins({"decoder": base}, needs) == []
    assert reliability.black_box_wins({"rmle": base}, needs) == []


@pytest.mark.parametrize("size", [16, 17])
def test_near_duplicates(size):
    pixels = torch.randint(10, 240, (30, 3, size, size), generator=rng(), dtype=torch.int64)
    train = Split(pixels.to(torch.uint8), torch.zeros(30, dtype=torch.long))
    test = pixels[[3, 9, 20]].clone()
    test[0] += 1  # a shade
    test[1, :, :4] += 40  # same coarse image elsewhere, plainly different here
    test[2] = test[2].flip(2)
    found = reliability.alike(test.to(torch.uint8), train.images)
    assert found.tolist() == [True, False, False]
    (flag,) = reliability.near_duplicates(train, Split(test.to(torch.uint8), torch.zeros(3, dtype=torch.long)))
    assert flag.startswith("1 of 3 attacked images have a near-duplicate")
    assert reliability.near_duplicates(train, Split(test[1:].to(torch.uint8), torch.zeros(2, dtype=torch.long))) == []


def test_the_same_coarse_image_is_no_duplicate():
    """Checkerboards of opposite phase have equal block means and unequal pixels."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 100 + 50
    ours = board.expand(1, 3, 16, 16).to(torch.uint8)
    assert not reliability.alike(ours, (200 - ours.long()).to(torch.uint8)).any()
