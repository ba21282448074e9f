"""The critic's penalty in closed form, the schedule of the refinement, and what it is chosen on."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

import toy
from splitveil import metrics
from splitveil.attacks import gan as module
from splitveil.attacks.base import Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.gan import GanAttack, critic, gradient_penalty
from splitveil.data import Access
from splitveil.errors import UserError
from splitveil.evaluation.suites import PRESETS, SUITES
from splitveil.runtime import Runtime
from toy import rng

QUERY = frozenset({Access.QUERY})
SMALL = {"warm_epochs": 2, "network": "dense_normN0C16", "width": 4, "batch_size": 64}


def victim() -> Victim:
    return Victim(toy.model(48, 0.05, (12, 2, 2))[0], QUERY)


@pytest.mark.parametrize("length", [0.0, 1.0, 3.5])
def test_the_penalty_of_a_linear_critic(length):
    """C(x) = ⟨w, x⟩ has the gradient w everywhere: the penalty is (‖w‖ − 1)², whatever the images."""
    linear: Any = nn.Sequential(nn.Flatten(), nn.Linear(toy.D, 1))
    weight = torch.randn(toy.D, generator=rng(1))
    linear[1].weight.data = (length * weight / weight.norm())[None]
    real, fake = toy.pixels(toy.images(5, 1)), toy.pixels(toy.images(5, 2))
    penalty = gradient_penalty(linear, real, fake, rng())
    assert float(penalty.detach()) == pytest.approx((length - 1) ** 2, abs=1e-5)
    if length:
        penalty.backward()
        expected = 2 * (length - 1) * linear[1].weight.detach() / length
        torch.testing.assert_close(linear[1].weight.grad, expected, atol=1e-5, rtol=1e-4)


def test_the_penalty_is_taken_between_each_image_and_its_fake():
    """C(x) = ½‖x‖² has the gradient x: the norms tell where the penalty was taken."""
    points = []

    class Square(nn.Module):
        def forward(self, x):
            points.append(x.detach())
            return x.flatten(1).square().sum(1) / 2

    real, fake = torch.zeros(40, 3, 2, 2), torch.ones(40, 3, 2, 2)
    penalty = gradient_penalty(Square(), real, fake, rng())
    part = points[0][:, 0, 0, 0]
    assert torch.equal(points[0], part[:, None, None, None].expand_as(points[0]))
    assert 0 <= float(part.min()) < 0.2 < 0.8 < float(part.max()) <= 1
    assert float(penalty.detach()) == pytest.approx(float((part * 12**0.5 - 1).square().mean()), rel=1e-5)


def test_the_critic_scores_each_image_alone():
    for size in (4, 17, 32):
        net = critic(size, 4)
        x = torch.rand(3, 3, size, size, generator=rng())
        assert net(x).shape == (3,)
        torch.testing.assert_close(net(x[1:2])[0], net(x)[1])


@pytest.mark.parametrize(("critic_steps", "expected"), [(1, 6), (4, 2), (10, 1)])
def test_one_generator_step_for_so_many_of_the_critic(monkeypatch, critic_steps, expected):
    """60 images, 54 to learn from: two batches of 27 in each of three epochs."""
    counts = {"critic": 0, "generator": 0}
    real = module.update

    def spy(optimizer, loss):
        is_critic = optimizer.param_groups[0]["params"][0].shape[0] == 1  # on 4×4 pixels the critic is one dense layer
        counts["critic" if is_critic else "generator"] += 1
        assert optimizer.defaults["betas"] == (0.5, 0.999)
        real(optimizer, loss)

    monkeypatch.setattr(module, "update", spy)
    GanAttack(3, critic_steps=critic_steps, **{**SMALL, "batch_size": 27}).fit(victim(), toy.images(60, 1), rng())
    assert counts == {"critic": 6, "generator": expected}


def test_the_generator_learns_what_the_critic_takes_for_real():
    """With the critic held and no other loss, steps of the generator raise the critic's score of its images."""
    attack = GanAttack(1, mse_weight=0.0, penalty=0.0, **SMALL)
    seen = victim()
    judge, train = attack.warm.train_on(seen, toy.images(60, 1), rng(), Runtime(), "gan")
    attack.build(toy.SIDE, rng())
    held = torch.optim.SGD(attack.critic.parameters(), 0.0)
    moved = torch.optim.SGD(attack.warm.decoder.parameters(), 0.01)
    wire = judge.wire(torch.arange(len(judge)), rng(2))
    scores: list[float] = []
    for _ in range(20):
        with torch.no_grad():
            scores.append(float(attack.critic(attack.warm.decoder.eval()(wire)).mean()))
        attack._step(train, torch.arange(len(train)), (moved, held), rng(3), refine=True)
    assert scores[-1] > scores[0]
    assert sum(b > a for a, b in pairwise(scores)) >= 15


def test_it_begins_with_the_decoder_attack():
    """A vanishing rate leaves the generator the decoder that the same seed trains."""
    decoder = DecoderAttack(2, "dense_normN0C16", batch_size=64)
    decoder.fit(victim(), toy.images(300, 1), rng())
    gan = GanAttack(1, lr=1e-12, **SMALL)
    gan.fit(victim(), toy.images(300, 1), rng())
    for (name, ours), theirs in zip(gan.warm.decoder.named_parameters(), decoder.decoder.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0, msg=name)


def test_it_keeps_its_best_epoch(monkeypatch):
    errors, states = iter([0.5, 0.4, 0.3, 0.1, 0.2]), []

    def scripted(self, judge, rng):
        states.append({k: v.clone() for k, v in self.decoder.state_dict().items()})
        return next(errors)

    monkeypatch.setattr(DecoderAttack, "error", scripted)
    gan = GanAttack(3, critic_steps=1, lr=1e-3, **SMALL)
    gan.fit(victim(), toy.images(100, 1), rng())
    assert gan.curve() == [0.3, 0.1, 0.2]
    assert all(torch.equal(v, states[3][k]) for k, v in gan.warm.decoder.state_dict().items())
    assert not torch.equal(states[2]["1.weight"], states[3]["1.weight"])


def test_its_error_stays_near_the_decoders_and_above_the_mmse():
    model, weight = toy.model(48, 0.05, (12, 2, 2))
    seen = Victim(model, QUERY)
    gan = GanAttack(10, critic_steps=2, lr=1e-3, **{**SMALL, "warm_epochs": 10})
    gan.fit(seen, toy.images(1500, 1), rng())
    truth = toy.pixels(toy.images(300, 2))
    error = float(metrics.mse(gan.reconstruct(seen.query(truth, rng(3))), truth).mean())
    assert toy.mmse(weight, 0.05) < error < 0.95 * toy.VARIANCE


@pytest.mark.parametrize("bad", ["epochs", "critic_steps", "width"])
def test_bad_counts(bad):
    settings: dict[str, Any] = {bad: 0}
    with pytest.raises(UserError, match=f"gan: {bad} is 0; expected a whole number from 1"):
        GanAttack(**settings)


@pytest.mark.parametrize("bad", [{"mse_weight": -1.0}, {"penalty": -1.0}, {"lr": 0.0}, {"batch_size": 1}])
def test_bad_numbers(bad):
    with pytest.raises(UserError, match=f"gan: {next(iter(bad))} is"):
        GanAttack(**bad)


def test_it_needs_three_images():
    with pytest.raises(UserError, match="gan: the attacker has 2 images; expected at least 3"):
        GanAttack(1, **SMALL).fit(victim(), toy.images(2, 0), rng())


# The published attack


@pytest.mark.parametrize(("size", "places"), [(25, 1), (32, 1), (48, 9), (64, 25)])
def test_the_published_critic(size, places):
    """1,034,113 parameters whatever the size, and a score for each place of images above 32 pixels."""
    net = critic(size, 64, "published")
    assert sum(p.numel() for p in net.parameters()) == 1_034_113
    shapes = [tuple(p.shape) for p in net.parameters() if p.dim() == 4]
    assert shapes == [(64, 3, 5, 5), (128, 64, 5, 5), (256, 128, 5, 5), (1, 256, 4, 4)]
    assert [m.num_features for m in net.modules() if isinstance(m, nn.InstanceNorm2d)] == [128, 256]
    x = torch.rand(3, 3, size, size, generator=rng())
    assert net(x).shape == (3, places)
    torch.testing.assert_close(net(x[1:2])[0], net(x)[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("size", "parameters"), [(32, 374_913), (48, 1_555_585), (64, 1_559_169)])
def test_the_plain_critic_is_the_one_that_suites_were_frozen_with(size, parameters):
    assert sum(p.numel() for p in critic(size, 64).parameters()) == parameters


@pytest.mark.parametrize("size", [24, 8])
def test_images_too_small_for_the_published_critic(size):
    with pytest.raises(UserError, match=f"the published critic got images of {size} pixels; expected 25 or more, or"):
        critic(size, 4, "published")


def test_too_small_images_are_refused_before_the_decoder_learns(monkeypatch):
    monkeypatch.setattr(DecoderAttack, "learn", lambda *_: pytest.fail("a decoder was trained first"))
    with pytest.raises(UserError, match="expected 25 or more, or critic=plain"):
        GanAttack(1, critic="published", **SMALL).fit(victim(), toy.images(30, 1), rng())


def test_an_unknown_critic():
    with pytest.raises(UserError, match="gan: critic is 'patch'; expected plain or published"):
        GanAttack(1, critic="patch")  # pyright: ignore[reportArgumentType]


def spied(monkeypatch, attack: GanAttack, count: int = 60) -> list[tuple[str, float, bool]]:
    """Who was updated, at which rate, and the generator's mode in the pass before it."""
    seen: list[tuple[str, float, bool]] = []
    modes: list[bool] = []
    real, forward = module.update, nn.Module.__call__

    def spy(optimizer, loss):
        who = "critic" if optimizer.param_groups[0]["params"][0] is next(attack.critic.parameters()) else "generator"
        seen.append((who, optimizer.param_groups[0]["lr"], modes[-1]))
        real(optimizer, loss)

    def call(self, *args, **options):
        if self is attack.warm.__dict__.get("decoder"):
            modes.append(self.training)
        return forward(self, *args, **options)

    monkeypatch.setattr(module, "update", spy)
    monkeypatch.setattr(nn.Module, "__call__", call)
    attack.fit(victim(), toy.images(count, 1), rng())
    return seen


def test_rates_and_modes_of_the_published_attack(monkeypatch):
    """Torch's own cosine over 300 epochs is the oracle of both rates; the generator learns in training mode only."""
    more = {"critic_lr": 5e-3, "cosine": 300, "evaluation": True, "critic_steps": 2, "batch_size": 27}
    seen = spied(monkeypatch, GanAttack(4, lr=5e-4, **{**SMALL, **more}))
    optimizer = torch.optim.Adam([{"params": [torch.zeros(1)], "lr": r} for r in (5e-4, 5e-3)])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=300)
    expected = []
    for _ in range(4):
        generator, judge = schedule.get_last_lr()
        expected += [("critic", judge, False), ("critic", judge, False), ("generator", generator, True)]
        optimizer.step()
        schedule.step()
    assert [(who, mode) for who, _, mode in seen] == [(who, mode) for who, _, mode in expected]
    assert [rate for _, rate, _ in seen] == pytest.approx([rate for _, rate, _ in expected], rel=1e-9)


def test_by_default_rates_stay_and_the_generator_is_in_training_mode(monkeypatch):
    seen = spied(monkeypatch, GanAttack(2, lr=1e-3, critic_steps=2, **{**SMALL, "batch_size": 27}))
    assert {(rate, mode) for _, rate, mode in seen} == {(1e-3, True)}


def test_the_preset_is_the_published_attack():
    attack = PRESETS["published/gan"].make("attacks")
    assert (attack.kind, attack.width, attack.rates, attack.cosine) == ("published", 64, (5e-4, 5e-3), 300)
    assert (attack.evaluation, attack.batch_size, attack.epochs, attack.critic_steps) == (True, 128, 150, 10)
    assert (attack.mse_weight, attack.penalty) == (1500, 10)
    published = PRESETS["published/decoder"].make("attacks")
    assert vars(attack.warm) == vars(published)  # what it begins with is the published decoder attack
    for spec in SUITES["standard-v1"]:
        if spec.name == "gan":
            old = spec.make("attacks")
            assert (old.kind, old.rates, old.cosine, old.evaluation) == ("plain", (1e-4, 1e-4), None, False)
            assert old.warm.batch_size == old.batch_size == 256
