"""The critic's penalty in closed form, the schedule of the refinement, and what it is chosen on."""

from __future__ import annotations

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
    real = module._update

    def spy(optimizer, loss):
        is_critic = optimizer.param_groups[0]["params"][0].shape[0] == 1  # on 4×4 pixels the critic is one dense layer
        counts["critic" if is_critic else "generator"] += 1
        assert optimizer.defaults["betas"] == (0.5, 0.999)
        real(optimizer, loss)

    monkeypatch.setattr(module, "_update", spy)
    GanAttack(3, critic_steps=critic_steps, **{**SMALL, "batch_size": 27}).fit(victim(), toy.images(60, 1), rng())
    assert counts == {"critic": 6, "generator": expected}


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
    with pytest.raises(UserError, match=f"gan: .*{bad}=0.*expected at least 1"):
        GanAttack(**settings)


@pytest.mark.parametrize("bad", [{"mse_weight": -1.0}, {"penalty": -1.0}, {"lr": 0.0}, {"batch_size": 1}])
def test_bad_numbers(bad):
    with pytest.raises(UserError, match=f"gan: .*{next(iter(bad))}="):
        GanAttack(**bad)


def test_it_needs_three_images():
    with pytest.raises(UserError, match="gan: the attacker has 2 images; expected at least 3"):
        GanAttack(1, **SMALL).fit(victim(), toy.images(2, 0), rng())
