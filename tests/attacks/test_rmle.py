"""White-box optimization: against the closed form, its choices, and defenses without a gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import toy
from splitveil import metrics
from splitveil.attacks import rmle as module
from splitveil.attacks._total_variation import total_variation
from splitveil.attacks._white_box import WhiteBox
from splitveil.attacks.base import Victim
from splitveil.attacks.decoder import DecoderAttack
from splitveil.attacks.rmle import RmleAttack
from splitveil.data import Access
from splitveil.defenses.base import Defense
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.local_dp import LocalDP
from splitveil.defenses.pca import PCA
from splitveil.defenses.topk import TopK
from splitveil.errors import UserError
from splitveil.model import SplitModel
from toy import rng

ALL = frozenset(Access)


def ridge_weight(attack: RmleAttack, m: int, sigma: float) -> float:
    """The l2 for which the attack's objective is the posterior of the toy problem."""
    variance = attack._typical[1]
    return toy.D * sigma**2 / (m * attack.box.scale * toy.VARIANCE) * variance


@pytest.mark.parametrize(("m", "sigma"), [(24, 0.03), (64, 0.1)])
def test_with_a_gaussian_prior_it_is_the_posterior_mean(m, sigma):
    model, weight = toy.model(m, sigma)
    victim = Victim(model, ALL)
    attack = RmleAttack(steps=250, tv=0.0, l2=1.0, start="grey", lr=0.02, draws=4)
    attack.fit(victim, toy.images(500, 1), rng())
    attack.l2 = ridge_weight(attack, m, sigma)
    truth = toy.pixels(toy.images(400, 2))
    wire = victim.query(truth, rng(3))
    expected = toy.posterior_mean(weight, wire, sigma)
    found = attack.reconstruct(wire)
    assert float((found - expected).square().mean()) < 0.02 * toy.mmse(weight, sigma)
    assert float(metrics.mse(found, truth).mean()) == pytest.approx(toy.mmse(weight, sigma), rel=0.07)


def projected(m: int, count: int, sigma: float) -> tuple[SplitModel, torch.Tensor, PCA]:
    """The toy problem behind noise and then a projection on ``count`` random directions, with W."""
    model, weight = toy.model(m, sigma)
    pca = PCA(count)
    pca.basis = torch.linalg.qr(torch.randn(m, count, generator=rng(7)))[0]
    pca.mean = torch.randn(m, generator=rng(8))
    return SplitModel(model.encoder, model.tail, defense=[Gaussian(sigma), pca]), weight, pca


def test_noise_before_a_projection_is_weighed_in_its_directions():
    """Behind it the noise is correlated: entry by entry, the answer was not the posterior mean."""
    model, weight, pca = projected(40, 24, 0.1)
    assert pca.basis is not None
    victim = Victim(model.eval(), ALL)
    attack = RmleAttack(steps=250, tv=0.0, l2=1.0, start="grey", lr=0.02, draws=4)
    attack.fit(victim, toy.images(500, 1), rng())
    attack.l2 = ridge_weight(attack, attack.box.variance.numel(), attack.box.noise**0.5)
    truth = toy.pixels(toy.images(200, 2))
    wire = victim.query(truth, rng(3))
    expected = toy.posterior_mean(pca.basis.T @ weight, wire @ pca.basis, 0.1)
    found = attack.reconstruct(wire)
    assert float((found - expected).square().mean()) < 0.02 * toy.mmse(pca.basis.T @ weight, 0.1)


def test_the_weights_are_chosen_on_the_attackers_images():
    """Unregularised, a noisy narrow wire is inverted badly; the sweep must find a prior that helps."""
    model, weight = toy.model(40, 0.1)
    victim, own, truth = Victim(model, ALL), toy.images(200, 1), toy.pixels(toy.images(100, 2))
    wire = victim.query(truth, rng(3))
    found = {}
    for name, weights in {"swept": {}, "none": {"tv": 0.0, "l2": 0.0}}.items():
        attack = RmleAttack(steps=150, lr=0.02, start="mean", draws=1, **weights)
        attack.fit(victim, own, rng())
        found[name] = float(metrics.mse(attack.reconstruct(wire), truth).mean())
        assert len(attack.curve()) == (name == "swept")
    assert found["swept"] < 1.4 * toy.mmse(weight, 0.1) < 0.6 * found["none"]


def test_images_do_not_depend_on_their_neighbors():
    model, _ = toy.model(24, 0.0)
    attack = RmleAttack(steps=20, tv=0.01, l2=0.1)
    attack.fit(Victim(model, ALL), toy.images(50, 1), rng())
    wire = Victim(model, ALL).query(toy.pixels(toy.images(6, 2)), rng())
    together = attack.reconstruct(wire)
    torch.testing.assert_close(attack.reconstruct(wire[2:3])[0], together[2], atol=1e-5, rtol=0)


def test_restarts_keep_what_is_nearest_on_the_wire_and_not_to_the_truth(monkeypatch):
    model, _ = toy.model(24, 0.0)
    attack = RmleAttack(steps=1, tv=0.0, l2=0.0, restarts=3)
    attack.fit(Victim(model, ALL), toy.images(50, 1), rng())
    losses = torch.tensor([[0.3, 0.1], [0.2, 0.2], [0.4, 0.05]])

    def scripted(wire, weights, mode, restart):
        return torch.full((2, 3, 4, 4), restart / 10), losses[restart].clone()

    monkeypatch.setattr(attack, "_optimize", scripted)
    found = attack.reconstruct(torch.zeros(2, 24))
    assert [round(float(x.mean()), 1) for x in found] == [0.1, 0.2]


def test_restarts_lower_the_distance_on_the_wire():
    model, _ = toy.model(24, 0.0)
    victim = Victim(SplitModel(nn.Sequential(model.encoder, Sine()), nn.Flatten()), ALL)
    truth = toy.pixels(toy.images(30, 2))
    wire, losses = victim.query(truth, rng()), []
    for restarts in (1, 4):
        attack = RmleAttack(steps=40, tv=0.0, l2=0.0, restarts=restarts)
        attack.fit(victim, toy.images(50, 1), rng())
        losses.append(attack.box.feature_loss(attack.reconstruct(wire), wire, rng(), "exact"))
    assert bool((losses[1] <= losses[0] * 1.0001).all())
    assert float(losses[1].sum()) < float(losses[0].sum())


class Sine(nn.Module):
    """Many x give one feature: a reason for restarts."""

    def forward(self, z):
        return torch.sin(40 * z)


@pytest.mark.parametrize("start", ["linear", "decoder", "residual"])
def test_it_starts_from_another_attack(monkeypatch, start):
    model, _ = toy.model(48, 0.05, (12, 2, 2))
    monkeypatch.setattr(module, "DecoderAttack", lambda epochs: DecoderAttack(epochs, network="custom"))
    attack = RmleAttack(steps=1, tv=0.0, l2=0.0, lr=1e-9, start=start, epochs=1)
    attack.fit(Victim(model, ALL), toy.images(60, 1), rng())
    wire = Victim(model, ALL).query(toy.pixels(toy.images(5, 2)), rng())
    assert attack._first is not None
    torch.testing.assert_close(attack.reconstruct(wire), attack._first.reconstruct(wire))


# Defenses through which the gradient is poor


class Rounded(Defense):
    """No derivative at all."""

    def on_wire(self, z, rng):
        return (z * 10).round() / 10


class Detached(Defense):
    def on_wire(self, z, rng):
        return z.detach().clone()


class Folded(Defense):
    """Another shape, without a derivative."""

    def on_wire(self, z, rng):
        return (z.flatten(1)[:, ::2] * 20).round() / 20


def box(defense: Defense, draws: int = 4) -> WhiteBox:
    plain, _ = toy.model(24, 0.0)
    return WhiteBox(
        Victim(SplitModel(plain.encoder, plain.tail, defense=defense), ALL), toy.images(80, 1), draws, rng()
    )


def test_a_clip_counts_where_the_first_two_features_lie_within_it():
    """The first two were all that was looked at: the expected wire of the others was their feature without the clip."""
    plain, _ = toy.model(24, 0.0)
    lengths = plain.features(toy.pixels(toy.images(80, 1))).detach().norm(dim=1)
    limit = float(lengths[:2].max()) * 1.001
    assert float((lengths > limit).float().mean()) > 0.1
    made = box(LocalDP(50.0, "gaussian", "image", norm=limit))
    assert made.modes == ("exact", "straight_through")
    x = toy.pixels(toy.images(80, 1))[lengths > limit]
    z = plain.features(x).detach()
    expected = z * limit / z.norm(dim=1, keepdim=True)
    scale = LocalDP(50.0, "gaussian", "image", norm=limit).noise_scale(24)
    found = made.wire(x, rng(), draws=2000).detach()
    assert float((found - expected).square().mean()) < 2 * scale**2 / 2000
    assert box(LocalDP(50.0, "gaussian", "image", norm=10.0)).modes == ("exact",)  # clips none


@pytest.mark.parametrize(
    ("defense", "modes", "draws"),
    [
        (Gaussian(0.1), ("exact",), 4),
        (Gaussian(0.0), ("exact",), 1),
        (TopK(0.5), ("exact", "straight_through"), 1),
        (Rounded(), ("straight_through",), 1),
        (Detached(), ("straight_through",), 1),
        (Folded(), ("straight_through",), 1),
    ],
)
def test_the_backward_passes_worth_trying(defense, modes, draws):
    made = box(defense)
    assert made.modes == modes
    assert made.draws == draws
    x = toy.pixels(toy.images(3, 2)).requires_grad_()
    loss = made.feature_loss(x, torch.zeros(3, 12 if isinstance(defense, Folded) else 24), rng(), modes[-1])
    loss.sum().backward()
    assert x.grad is not None
    assert bool(x.grad.flatten(1).abs().sum(1).gt(0).all())


@pytest.mark.parametrize("defense", [Rounded(), Detached(), Folded(), TopK(0.5)])
def test_a_defense_without_a_gradient_is_not_taken_for_a_private_one(defense):
    """Masked gradients: the attack comes well below the mean image all the same."""
    plain, _ = toy.model(48, 0.0)
    victim = Victim(SplitModel(plain.encoder, plain.tail, defense=defense), ALL)
    truth = toy.pixels(toy.images(40, 2))
    attack = RmleAttack(steps=100, tv=0.0, l2=0.01, tuning=8, start="grey", lr=0.02)
    attack.fit(victim, toy.images(200, 1), rng())
    found = attack.reconstruct(victim.query(truth, rng()))
    limit = 0.8 if isinstance(defense, Folded) else 0.7  # half the numbers cross
    assert float(metrics.mse(found, truth).mean()) < limit * toy.VARIANCE


class Secretive(Gaussian):
    def law(self, wire, before):
        return before.silent()


def test_the_expected_wire_of_noise_that_is_told_of_and_only_added_is_the_feature():
    made, x = box(Gaussian(0.3), draws=2), toy.pixels(toy.images(20, 2))
    assert torch.equal(made.wire(x, rng(5)), made.model.features(x))


def test_the_expected_wire_averages_the_noise():
    made = box(Secretive(0.3), draws=100)
    x = toy.pixels(toy.images(20, 2))
    residual = made.wire(x, rng(5)) - made.model.features(x)
    assert float(residual.std()) == pytest.approx(0.03, rel=0.1)


def test_total_variation():
    stripes = torch.zeros(1, 3, 4, 4)
    stripes[..., 1::2] = 1
    assert float(total_variation(stripes)) == pytest.approx(3 / 4, abs=1e-3)
    assert float(total_variation(torch.full((1, 3, 4, 4), 0.3))) == pytest.approx(1e-4)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"restarts": 0}, {"draws": 0}, {"tuning": 0}])
def test_bad_counts(bad):
    with pytest.raises(UserError, match=f"rmle: {next(iter(bad))} is 0; expected a whole number from 1"):
        RmleAttack(**bad)


@pytest.mark.parametrize("bad", [{"tv": -1.0}, {"l2": -0.1}, {"lr": 0.0}])
def test_bad_weights(bad):
    with pytest.raises(UserError, match=r"rmle: .* is .*; expected a number"):
        RmleAttack(**bad)


def test_it_needs_two_images():
    with pytest.raises(UserError, match="rmle: the attacker has 1 images; expected at least 2"):
        RmleAttack().fit(Victim(toy.model(8, 0.1)[0], ALL), toy.images(1, 0), rng())
