"""White-box attacks with a learned or a structural prior: batched networks, the autoencoder, and the search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import toy
from digit_victims import Rounded, victim
from splitveil import metrics
from splitveil.attacks import deep_prior
from splitveil.attacks.base import Victim
from splitveil.attacks.deep_prior import DeepPriorAttack, Grouped, Hourglasses
from splitveil.attacks.latent import LatentAttack, divergence
from splitveil.data import Access, Split, load, to_float
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import UserError
from toy import rng

ALL = frozenset(Access)
DIGITS = load("digits", train_size=300, test_size=20)


def half(split: Split) -> Split:
    """The images at 16×16 pixels."""
    return Split(split.images[:, :, ::2, ::2].contiguous(), split.labels)


def against_mean(attack, seen: Victim, train: Split = DIGITS.train, test: Split = DIGITS.test) -> float:
    """Error on four test digits as a part of the mean image's."""
    attack.fit(seen, train, rng())
    truth = to_float(test.images[:4])
    with torch.no_grad():  # as evaluations call it
        found = attack.reconstruct(seen.query(truth, rng(1)))
    mean = to_float(train.images).mean(0).expand_as(truth)
    return float(metrics.mse(found, truth).mean() / metrics.mse(mean, truth).mean())


# Untrained networks


def test_grouped_layers_are_separate_networks():
    layer = Grouped(3, 4, 5, 2)
    with torch.no_grad():
        for parameter in layer.norm.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng(1)))
    x = torch.randn(3, 4, 8, 8, generator=rng())
    for i, out in enumerate(layer(x)):
        rows = slice(5 * i, 5 * i + 5)
        alone = nn.functional.conv2d(x[i : i + 1], layer.conv.weight[rows], layer.conv.bias[rows], 2, 1)  # type: ignore[index]
        alone = nn.functional.batch_norm(
            alone, None, None, layer.norm.weight[rows], layer.norm.bias[rows], training=True
        )
        torch.testing.assert_close(out, nn.functional.leaky_relu(alone[0], 0.2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [5, 17, 32])
def test_an_image_depends_on_its_own_network_and_code(size):
    nets = Hourglasses(3, 4)
    code = torch.randn(3, deep_prior.CODE, size, size, generator=rng()).requires_grad_()
    images = nets(code)
    assert images.shape == (3, 3, size, size)
    images[1].sum().backward()
    assert code.grad is not None
    assert [bool(g.any()) for g in code.grad] == [False, True, False]


def test_deep_prior_reconstructs():
    assert against_mean(DeepPriorAttack(steps=60, width=8, tv=0.01, draws=1), victim(Gaussian(0.0))) < 0.8


def test_deep_prior_goes_around_a_defense_without_a_gradient():
    attack = DeepPriorAttack(steps=60, width=8, tv=0.01)
    assert against_mean(attack, victim(Rounded())) < 0.9
    assert attack.mode == "straight_through"


def test_the_jitter_falls_in_thirds(monkeypatch):
    seen = []

    class Spy(Hourglasses):
        def forward(self, code):
            seen.append(code.detach())
            return super().forward(code)

    monkeypatch.setattr(deep_prior, "Hourglasses", Spy)
    attack = DeepPriorAttack(steps=6, width=2)
    attack.fit(victim(Gaussian(0.1)), DIGITS.train, rng())
    attack.reconstruct(torch.zeros(4, 8, 8, 8))
    jitter = [float((code - seen[-1]).std()) for code in seen[:-1]]  # the answer is given without
    assert jitter == pytest.approx([0.5, 0.5, 0.1, 0.1, 0.05, 0.05], rel=0.05)


# Latents


def test_divergence_is_torchs():
    mean, log_variance = torch.randn(5, 3, generator=rng()), torch.randn(5, 3, generator=rng(1))
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(ours, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), expected)


def test_the_search_begins_at_the_best_sample():
    attack = LatentAttack(epochs=1, steps=1, size=4, samples=300, network="dense_normN0C8", draws=1)
    plain, _ = toy.model(24, 0.0)
    attack.fit(Victim(plain, ALL), toy.images(40, 1), rng())
    target = torch.randn(5, 24, generator=rng(2))
    found = attack._sampled(target, rng(3))
    latents = torch.randn(300, 4, generator=rng(3))
    with torch.no_grad():
        losses = torch.stack(
            [attack.box.feature_loss(attack._images(latents), t[None], rng(), "exact") for t in target]
        )
    assert torch.equal(found, latents[losses.argmin(1)])


@pytest.mark.parametrize("defense", [Gaussian(0.02), Rounded()])
def test_latent_reconstructs_and_comes_nearer_on_the_wire(defense):
    seen = victim(defense)
    attack = LatentAttack(
        epochs=10, steps=40, size=16, samples=256, network="dense_normN0C16", batch_size=50, draws=1, lr=0.1
    )
    train, test = half(DIGITS.train), half(DIGITS.test)
    assert against_mean(attack, seen, train, test) < 0.85
    wire, losses = seen.query(to_float(test.images[:8]), rng(1)), []
    for attack.steps in (1, 40):
        losses.append(attack.box.feature_loss(attack.reconstruct(wire), wire.flatten(1), rng(), "exact").detach())
    assert float(losses[1].mean()) < 0.9 * float(losses[0].mean())


def test_latent_keeps_the_better_backward_pass_for_each_image(monkeypatch):
    attack = LatentAttack(epochs=1, steps=1, size=4, samples=4, network="dense_normN0C8", draws=1)
    plain, _ = toy.model(24, 0.0)
    attack.fit(Victim(plain, ALL), toy.images(40, 1), rng())
    attack.box.modes = ("exact", "straight_through")
    final = {"exact": torch.tensor([0.1, 0.4]), "straight_through": torch.tensor([0.2, 0.3])}
    kept: dict[str, torch.Tensor] = {}

    def scripted(x, target, rng, mode, draws=None):
        if draws is None:
            return x.flatten(1).sum(1) * (1 if mode == "exact" else -1)
        kept[mode] = x.detach().clone()
        return final[mode]

    monkeypatch.setattr(attack.box, "feature_loss", scripted)
    found = attack.reconstruct(torch.zeros(2, 24))
    assert torch.equal(found, torch.stack([kept["exact"][0], kept["straight_through"][1]]))
    assert not torch.equal(kept["exact"], kept["straight_through"])


# Bad settings


@pytest.mark.parametrize("name", ["steps", "width", "draws", "tuning"])
def test_bad_deep_prior_counts(name):
    bad: dict[str, Any] = {name: 0}
    with pytest.raises(UserError, match=f"deep_prior: {name} is 0; expected a whole number from 1"):
        DeepPriorAttack(**bad)


@pytest.mark.parametrize("name", ["epochs", "steps", "size", "samples", "draws", "batch_size"])
def test_bad_latent_counts(name):
    bad: dict[str, Any] = {name: 0}
    with pytest.raises(UserError, match=f"latent: {name} is 0; expected a whole number from"):
        LatentAttack(**bad)


@pytest.mark.parametrize(
    "attack", [lambda: DeepPriorAttack(tv=-1), lambda: LatentAttack(l2=-1), lambda: LatentAttack(lr=0)]
)
def test_bad_weights(attack):
    with pytest.raises(UserError, match="expected a number"):
        attack()


def test_deep_prior_needs_five_pixels():
    with pytest.raises(UserError, match="deep_prior: the images have 4 pixels a side; expected at least 5"):
        DeepPriorAttack().fit(Victim(toy.model(8, 0.1)[0], ALL), toy.images(3, 0), rng())


def test_latent_needs_two_images():
    with pytest.raises(UserError, match="latent: the attacker has 1 images; expected at least 2"):
        LatentAttack().fit(victim(Gaussian(0.1)), DIGITS.train.subset(torch.arange(1)), rng())
