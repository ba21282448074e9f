"""Each reason not to trust an evaluation, with a case that has it and one that has not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import toy
from splitveil.attacks.base import Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.linear import LinearAttack
from splitveil.attacks.nearest import NearestAttack
from splitveil.attacks.rmle import RmleAttack
from splitveil.attacks.shadow import ShadowAttack
from splitveil.data import Access, Split
from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.cloak import Cloak
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.laplace import Laplace
from splitveil.defenses.local_dp import LocalDP
from splitveil.defenses.topk import TopK
from splitveil.evaluation import reliability
from splitveil.model import SplitModel
from splitveil.statistics.intervals import Interval, binomial_ci
from toy import rng

QUERY, WHITE = frozenset({Access.QUERY}), frozenset({Access.QUERY, Access.WEIGHTS})
IMAGES, WIRE = toy.images(40, 1), 64


def model(defense: nn.Module | None) -> SplitModel:
    plain, _ = toy.model(WIRE, 0.0)
    return SplitModel(plain.encoder, plain.tail, defense=defense).eval()


class Frozen(Gaussian):
    """Claims noise, and adds the same every time."""

    def on_wire(self, z, rng):
        return z + self.sigma * torch.ones_like(z)


class Centered(Defense):
    """Takes the batch's mean away: what is alone vanishes."""

    def on_wire(self, z, rng):
        return z - z.mean(0)


class Boastful(Gaussian):
    """Tells of noise of deviation σ and draws a tenth of it."""

    def on_wire(self, z, rng):
        return z + 0.1 * self.sigma * torch.randn(z.shape, generator=rng)


class Sly(Gaussian):
    """Tells of a tenth less variance than it draws: within the margin."""

    def law(self, wire, before):
        return before.with_noise(0.95 * self.sigma**2)


class Partly(Gaussian):
    """Tells of noise of deviation σ in the first channel and none in the others, and draws ``drawn`` of each."""

    def __init__(self, sigma, first, others):
        super().__init__(sigma)
        self.first, self.others = first, others

    def on_wire(self, z, rng):
        noise = torch.randn(z.shape, generator=rng)
        return z + torch.cat([self.first * noise[:, :1], self.others * noise[:, 1:]], 1)

    def law(self, wire, before):
        told = torch.zeros(wire.shape[1:])
        told[0] = self.sigma**2
        return before.with_noise(told)


class Denying(Gaussian):
    """Tells of no noise at all, and draws some."""

    def on_wire(self, z, rng):
        return z + 0.1 * torch.randn(z.shape, generator=rng)


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
        (Frozen(0.1), "tells of noise of variance 0.01, but what it draws has 0 times that"),
        (Boastful(1.0), "tells of noise of variance 1, but what it draws has 0.0"),
        (Stack(Boastful(0.1), Dropout(0.5)), "tells of noise of variance 0.04, but what it draws has 0.0"),
        (Sly(0.1), None),
        (Partly(0.1, 0.1, 0.0), None),
        (Partly(0.1, 0.01, 0.0), "but what it draws has 0.0"),
        (Partly(0.1, 0.1, 0.1), "carries no noise, but two looks at one image differ there"),
        (Denying(0.0), "carries no noise, but two looks at one image differ there"),
        (Cloak(low=0.05, high=0.2), None),
        (Stack(Gaussian(0.1), Laplace(0.05), Dropout(0.5)), None),
        (Centered(), "depends on the images beside it"),
        (TopK(0.2, scope="released"), "depends on the images beside it"),
        *((Stack(noise(), TopK(0.2, scope="released")), "images beside it") for noise in NOISES),
        *((Stack(Centered(), noise()), "images beside it") for noise in NOISES),
        *((Stack(TopK(0.2), noise()), None) for noise in NOISES),
        (Stack(Dropout(0.5), Gaussian(2.0)), None),
    ],
)
def test_what_is_wrong_with_the_wire(defense, reason):
    made = model(defense)
    for part in (defense, *(defense or ())) if isinstance(defense, Stack) else (defense,):
        if isinstance(part, Cloak):
            part.rho = nn.Parameter(torch.linspace(-2, 2, WIRE))
    found = reliability.of_model(made, IMAGES)
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
        assert victim.looks() == pytest.approx(epochs, abs=0.15)  # 3 of 40 more tell the scale
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


def test_a_mean_of_likely_images_may_beat_the_likeliest_one():
    """The white-box answer is nearer on the wire, so its gradient was not masked; where it is further, it was."""
    base, needs = torch.rand(50, generator=rng()), {"map": WHITE, "decoder": QUERY}
    values, one = {"map": base + 0.1, "decoder": base}, torch.ones(50)
    assert reliability.black_box_wins(values, needs, {"map": 0.5 * one, "decoder": 0.9 * one}) == []
    assert len(reliability.black_box_wins(values, needs, {"map": 9 * one, "decoder": 0.9 * one})) == 1


def test_the_mean_image_must_be_beaten_beyond_the_interval():
    base = torch.rand(50, generator=rng())
    noise = 0.3 * torch.randn(50, generator=rng(1))
    close = base + noise - noise.mean() - 1e-3  # below on average, by less than chance
    assert len(reliability.no_better_than_the_mean(close, base)) == 1
    assert reliability.no_better_than_the_mean(base - 0.01, base) == []


def test_the_linear_attack_must_be_beaten():
    base = torch.rand(50, generator=rng())
    (flag,) = reliability.no_better_than_linear(base + 0.01, base)
    assert "does not beat the linear one" in flag
    assert reliability.no_better_than_linear(base - 0.01, base) == []


@pytest.mark.parametrize(
    ("curve", "flagged"),
    [
        ([1 / (k + 1) for k in range(30)], True),  # stopped early
        ([1 / (k + 1) for k in range(30)] + [1 / 30] * 5, False),  # has settled
        ([0.5, 0.4, 0.3, 0.2, 0.1, 0.3], False),  # the best epoch is kept, and it is not a late one
        ([0.5, 0.3], False),  # too short to tell
        ([], False),
    ],
)
def test_a_training_that_was_stopped_early(curve, flagged):
    assert len(reliability.still_falling(curve)) == flagged


def test_mirrored_and_shifted_copies_are_near_duplicates():
    pixels = torch.randint(10, 240, (30, 3, 20, 20), generator=rng(), dtype=torch.int64).to(torch.uint8)
    train = Split(pixels, torch.zeros(30, dtype=torch.long))

    def found(test: torch.Tensor) -> list[str]:
        return reliability.near_duplicates(train, Split(test, torch.zeros(len(test), dtype=torch.long)))

    assert found(pixels[:1].flip(3))[0].startswith("1 of 1 attacked images")
    assert found(pixels[:2].roll((2, -1), (2, 3)))[0].startswith("2 of 2 attacked images")
    assert found(pixels[:1].flip(3).roll(1, 2))[0].startswith("1 of 1 attacked images")
    assert found(pixels[:1].roll(5, 2)) == []
    assert found(pixels[:1].flip(2)) == []


@pytest.mark.parametrize(("levels", "flagged"), [(1, True), (2, True), (3, False), (4, False)])
def test_how_near_a_near_duplicate_is(levels, flagged):
    pixels = torch.randint(10, 240, (5, 3, 16, 16), generator=rng(), dtype=torch.int64)
    assert reliability.alike((pixels[:1] + levels).to(torch.uint8), pixels.to(torch.uint8)).tolist() == [flagged]


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
    assert flag.startswith("2 of 3 attacked images have a near-duplicate")  # the last one mirrored
    assert reliability.near_duplicates(train, Split(test[1:2].to(torch.uint8), torch.zeros(1, dtype=torch.long))) == []


def test_the_same_coarse_image_is_no_duplicate():
    """Checkerboards of opposite phase have equal block means and unequal pixels."""
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 100 + 50
    ours = board.expand(1, 3, 16, 16).to(torch.uint8)
    assert not reliability.alike(ours, (200 - ours.long()).to(torch.uint8)).any()


def test_chance_is_the_share_of_the_largest_class():
    even, uneven = torch.arange(100) % 10, torch.tensor([0] * 70 + [1] * 30)
    assert reliability.at_chance(Interval(0.14, 0.11, 0.18), even) == []
    assert len(reliability.at_chance(Interval(0.14, 0.099, 0.18), even)) == 1
    assert len(reliability.at_chance(Interval(0.02, 0.01, 0.04), even)) == 1  # worse than guessing
    (flag,) = reliability.at_chance(Interval(0.75, 0.66, 0.82), uneven)
    assert "accuracy 75.0% [66.0%, 82.0%], chance 70.0%" in flag
    assert reliability.at_chance(Interval(0.85, 0.77, 0.91), uneven) == []


def test_of_so_few_images_that_none_could_be_above_chance_nothing_is_said():
    two, ten = torch.arange(2), torch.arange(10) % 2
    assert all(reliability.at_chance(binomial_ci(hits, 2), two) == [] for hits in range(3))
    assert reliability.at_chance(binomial_ci(10, 10), ten) == []
    (flag,) = reliability.at_chance(binomial_ci(5, 10), ten)
    assert flag.startswith("the network is not shown to be better than chance on its 10 test images (accuracy 50.0% [")
    most = torch.tensor([0] * 8 + [1] * 2)  # the interval of ten of ten begins at 72 %, below this class's 80 %
    assert reliability.at_chance(binomial_ci(8, 10), most) == []


def test_without_an_accuracy_or_with_one_class_nothing_is_said_of_chance():
    assert reliability.at_chance(None, torch.arange(100) % 10) == []
    assert reliability.at_chance(Interval(1.0, 0.96, 1.0), torch.zeros(100, dtype=torch.long)) == []


def test_noise_that_chose_the_largest_entries_is_measured_on_long_wires(monkeypatch):
    monkeypatch.setitem(globals(), "WIRE", 256)
    assert reliability.of_model(model(Stack(Gaussian(0.1), TopK(0.2))), IMAGES) == []
