"""The diffusion model against closed forms, and the two attacks that it leads, against the posterior mean."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import toy
from digit_victims import Rounded, victim
from splitveil import metrics
from splitveil.attacks import _ddpm
from splitveil.attacks._ddpm import Ddpm, clean, held_out_error, score
from splitveil.attacks._denoiser import LEVELS, Denoiser, GaussianModel, alphas
from splitveil.attacks.base import Victim
from splitveil.attacks.diffusion import DiffusionAttack, paired, spherical, step
from splitveil.attacks.linear import LinearAttack
from splitveil.attacks.map import MapAttack, prior_gradient
from splitveil.config import Spec
from splitveil.data import Access, Split, load, to_float
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.topk import TopK
from splitveil.errors import UserError
from splitveil.runtime import Budget, Runtime
from splitveil.statistics import intervals
from toy import rng

ALL, SIGMA = frozenset(Access), 0.05


def small(split: Split) -> Split:
    """Digits of 8×8 pixels, as they were scanned."""
    return Split(split.images[:, :, 2::4, 2::4].contiguous(), split.labels)


DIGITS = load("digits", train_size=300, test_size=20)
TRAIN, TEST = small(DIGITS.train), small(DIGITS.test)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=rng(seed))


def exact() -> Denoiser:
    """The denoiser of the toy problem's images, N(0, 4η² I) in [-1, 1]: an untrained network corrects nothing."""
    denoiser = Denoiser(normal(8, 3, toy.SIDE, toy.SIDE), 4).requires_grad_(False)
    denoiser.gaussian.mean.zero_()
    denoiser.gaussian.variance.fill_(4 * toy.VARIANCE)
    return denoiser


# The model


def test_the_schedule_is_the_cosine():
    alpha, t = alphas().double(), torch.arange(1, LEVELS + 1, dtype=torch.float64) / LEVELS
    assert bool((alpha.diff() < 0).all())
    expected = ((t + 0.008) / 1.008 * torch.pi / 2).cos() / torch.tensor(0.008 / 1.008 * torch.pi / 2).double().cos()
    torch.testing.assert_close(alpha[:990], expected[:990].square(), rtol=1e-4, atol=1e-6)
    assert float(alpha[0]) > 0.9999
    assert 0 < float(alpha[-1]) < 1e-6


@pytest.mark.parametrize("size", [4, 5, 8])
def test_the_gaussian_model_is_its_covariances_closed_form(size):
    """Against the dense matrices: E[ε | x] for y ~ N(μ, Σ), Σ from the transform of unit vectors."""
    model = GaussianModel(normal(50, 3, size, size) * torch.rand(3, size, size, generator=rng(1)) + 0.2)
    d = 3 * size * size
    basis = model.transform(torch.eye(d).view(d, 3, size, size)).view(d, d).T.double()
    torch.testing.assert_close(basis @ basis.T, torch.eye(d).double(), atol=1e-5, rtol=0)
    x, alpha = normal(4, 3, size, size, seed=2), torch.tensor(0.7)
    torch.testing.assert_close(model.inverse(model.transform(x)), x, atol=1e-5, rtol=0)
    sigma = basis.T @ model.variance.view(-1, 1).double().mul(basis)
    marginal = 0.7 * sigma + 0.3 * torch.eye(d)
    rest = (x - 0.7**0.5 * model.mean).flatten(1).double()
    expected = 0.3**0.5 * torch.linalg.solve(marginal, rest.T).T
    torch.testing.assert_close(model(x, alpha).flatten(1).double(), expected, atol=1e-4, rtol=1e-4)


def test_the_gaussian_model_has_the_variances_of_the_images():
    y = to_float(TRAIN.images)
    model = GaussianModel(y)
    assert float(model.variance.sum()) == pytest.approx(float(y.var(0, correction=0).sum()), rel=1e-4)
    coefficients = model.transform(y - model.mean)
    torch.testing.assert_close(coefficients.square().mean(0), model.variance)


@pytest.mark.parametrize("size", [4, 5, 9, 32])
def test_the_network_takes_squares_of_any_size(size):
    net, x = Denoiser(normal(9, 3, size, size), 8), normal(3, 3, size, size, seed=1)
    torch.testing.assert_close(net(x, torch.tensor(300)), net.gaussian(x, net.alpha[300]))
    for parameter in net.last.parameters():
        nn.init.normal_(parameter, generator=rng())
    each = torch.cat([net(x[i : i + 1], torch.tensor(t)) for i, t in enumerate((1, 500, 999))])
    torch.testing.assert_close(net(x, torch.tensor([1, 500, 999])), each, atol=1e-5, rtol=1e-4)
    net(x, torch.tensor(5)).sum().backward()
    missing = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert not missing


def black_or_white(n: int, seed: int) -> Split:
    """Images of one color, 0.2 or 0.8: as far from Gaussian as images can be."""
    white = torch.randint(2, (n, 1, 1, 1), generator=rng(seed))
    return Split((51 + 153 * white).to(torch.uint8).repeat(1, 3, 4, 4), torch.zeros(n, dtype=torch.long))


class BestDenoiser:
    """Theirs in closed form: E[y | x] = 0.6 tanh(√ᾱ 0.6 Σx/(1 − ᾱ)), the posterior mean of two points."""

    def __init__(self):
        self.alpha = alphas()

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        alpha = self.alpha[t].view(-1, 1, 1, 1)
        y = 0.6 * torch.tanh(alpha.sqrt() * 0.6 * x.sum((1, 2, 3), keepdim=True) / (1 - alpha))
        return (x - alpha.sqrt() * y) / (1 - alpha).sqrt()


@pytest.fixture(scope="module")
def priors() -> list[tuple[Denoiser, list[float]]]:
    """The Gaussian model of black and white images, and a network trained on them; each with its curve."""
    held, own = black_or_white(512, 1), black_or_white(512, 2)
    return [Ddpm(epochs, 8, 16).learn(own, held, rng(), Runtime()) for epochs in (0, 8)]


def test_training_goes_from_the_gaussian_model_towards_the_best_denoiser(priors):
    (plain, none), (trained, curve) = priors
    held, best = black_or_white(512, 1), cast("Any", BestDenoiser())
    assert (none, len(curve)) == ([], 8)
    assert held_out_error(trained, held) == min(curve)
    assert held_out_error(best, held) < min(curve) < 0.7 * held_out_error(plain, held)
    assert not any(p.requires_grad for p in trained.parameters())


def test_the_best_epoch_is_kept_and_none_where_none_is_better(monkeypatch):
    errors = iter([0.5, 0.4, 0.3, 0.6])
    monkeypatch.setattr(_ddpm, "held_out_error", lambda net, judge: next(errors))
    kept, curve = Ddpm(3, 4, 100).learn(TRAIN, TEST, rng(), Runtime())
    assert curve == [0.4, 0.3, 0.6]
    assert bool(kept.last.weight.any())
    errors = iter([0.1, 0.4])
    kept, _ = Ddpm(1, 4, 100).learn(TRAIN, TEST, rng(), Runtime())
    assert not bool(kept.last.weight.any())


def test_score_and_clean_image_are_the_gaussian_closed_forms():
    denoiser, x = exact(), normal(5, 3, 4, 4)
    for t in (3, 200, 700):
        alpha = denoiser.alpha[t]
        marginal = alpha * 4 * toy.VARIANCE + 1 - alpha
        noise = denoiser(x, torch.tensor(t))
        torch.testing.assert_close(score(noise, alpha), -x / marginal, atol=1e-4, rtol=1e-3)
        expected = alpha.sqrt() * 4 * toy.VARIANCE * x / marginal
        torch.testing.assert_close(clean(x, noise, alpha), expected, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("t", [0, 100, 800])
def test_the_priors_gradient_is_exact_for_gaussian_images_whatever_the_noise(t):
    denoiser, y = exact(), normal(5, 3, 4, 4)
    alpha = denoiser.alpha[t]
    expected = -alpha * y / (alpha * 4 * toy.VARIANCE + 1 - alpha)
    for seed in (1, 2):
        torch.testing.assert_close(prior_gradient(denoiser, y, t, rng(seed)), expected, atol=1e-3, rtol=1e-3)


# The sampler


def test_without_guidance_the_samples_are_distributed_as_the_images():
    """With every level a step; fewer steps lose variance, as each neglects what is unknown of the image."""
    model, alpha, generator = exact().gaussian, alphas(), rng()
    model.mean.fill_(0.3)
    x = normal(200, 3, 4, 4, seed=1)
    for t in range(LEVELS - 1, 0, -1):
        fresh = torch.randn(x.shape, generator=generator)
        x = step(x, model(x, alpha[t]), alpha[t], alpha[t - 1], fresh)
    assert float(x.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(x.std()) == pytest.approx(2 * toy.VARIANCE**0.5, rel=0.03)


def test_spherical_keeps_the_length_of_noise():
    noise, gradient = normal(6, 3, 4, 4), 1e-6 * normal(6, 3, 4, 4, seed=1)
    gradient[5] = 0
    rate = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0, 0.2]).view(-1, 1, 1, 1)
    mixed = spherical(noise, gradient, rate)
    torch.testing.assert_close(mixed.flatten(1).norm(dim=1), torch.full((6,), 48**0.5))
    cosine = nn.functional.cosine_similarity
    along = cosine(mixed.flatten(1), -gradient.flatten(1))
    assert bool((along[:5].diff() > 0).all())
    assert float(along[4]) == pytest.approx(1)
    assert float(cosine(mixed[0].flatten(), noise[0].flatten(), 0)) == pytest.approx(1)
    assert float(cosine(mixed[5].flatten(), noise[5].flatten(), 0)) == pytest.approx(1)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_samples_come_in_pairs_of_opposite_noise(samples):
    noise = paired(7, samples, torch.Size([3, 4, 4]), rng()).view(7, samples, -1)
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    for first in range(0, samples - 1, 2):
        assert torch.equal(noise[:, first], -noise[:, first + 1])
    assert len(noise[:, ::2].flatten(0, 1).unique(dim=0)) == 7 * ((samples + 1) // 2)


# The attacks on the toy problem


@pytest.fixture(scope="module")
def problem():
    model, weight = toy.model(48, SIGMA, (12, 2, 2))
    victim, truth = Victim(model, ALL), toy.pixels(toy.images(80, 2))
    wire = victim.query(truth, rng(3))
    return victim, truth, wire, toy.posterior_mean(weight, wire, SIGMA), weight


def excess(found: Tensor, problem) -> float:
    """E‖x̂ − E[x | z]‖² as a part of the MMSE: what the error is above it, as errors of the mean are orthogonal."""
    return float((found - problem[3]).square().mean()) / toy.mmse(problem[4], SIGMA)


@pytest.mark.parametrize("start", ["mean", "linear"])
def test_with_the_exact_score_map_is_the_posterior_mean(problem, start):
    victim, _, wire, _, _ = problem
    attack = MapAttack(steps=150, weight=1.0, start=start, epochs=0, low=0, lr=0.03, tuning=8)
    attack.fit(victim, toy.images(2000, 1), rng())
    assert attack.guide.box.noise == pytest.approx(SIGMA**2, rel=0.05)
    attack.guide = dataclasses.replace(attack.guide, denoiser=exact())
    assert excess(attack.reconstruct(wire), problem) < 0.01


TRAINED = "epochs=2,width=8,batch_size=128,draws=2,tuning=8"


NOISE, LED = "diffusion:steps=60,samples=4,start=noise", "diffusion:steps=40,samples=2,start="


@pytest.mark.parametrize("text", ["map:steps=100", f"{LED}linear", f"{LED}residual", NOISE])
def test_trained_within_five_percent_of_the_mmse_and_not_below(problem, text):
    victim, truth, wire, best, weight = problem
    attack: Any = Spec.model_validate(f"{text},{TRAINED}").resolve("attacks").make("attacks")
    attack.fit(victim, toy.images(1000, 1), rng())
    assert len(attack.curve()) == 2
    found = attack.reconstruct(wire)
    assert excess(found, problem) < 0.05
    errors = metrics.mse(found, truth)
    assert intervals.paired_difference(errors, metrics.mse(best, truth)).hi > 0
    assert intervals.bootstrap_ci(errors).hi > toy.mmse(weight, SIGMA)


def test_a_single_sample_has_twice_the_error_and_a_pair_much_less(problem):
    victim, truth, wire, _, weight = problem
    ratio = {}
    for samples in (1, 2):
        attack = DiffusionAttack(steps=40, samples=samples, guidance=0.2, epochs=0, draws=1)
        attack.fit(victim, toy.images(2000, 1), rng())
        ratio[samples] = float(metrics.mse(attack.reconstruct(wire), truth).mean()) / toy.mmse(weight, SIGMA)
    assert ratio[1] == pytest.approx(2, abs=0.2)
    assert ratio[2] < 1.1


# Real images


def against_start(attack: Any, seen: Victim, own: Split) -> float:
    """Error on twenty digits as a part of that of the attack's start."""
    attack.fit(seen, own, rng())
    truth = to_float(TEST.images)
    wire = seen.query(truth, rng(1))
    found, start = attack.reconstruct(wire), attack.guide.first.reconstruct(wire)
    return float(metrics.mse(found, truth).mean() / metrics.mse(start, truth).mean())


TINY: dict[str, Any] = {"epochs": 2, "width": 8, "draws": 1, "tuning": 4}


@pytest.mark.parametrize(
    ("attack", "limit"),
    [(MapAttack(steps=30, lr=0.05, tuning=8), 0.1), (DiffusionAttack(steps=20, samples=2, draws=1, tuning=8), 0.6)],
)
def test_a_trained_prior_improves_on_a_linear_start_and_a_gaussian_one_hardly(priors, monkeypatch, attack, limit):
    """Of black and white images, of which a linear attack knows no more than a Gaussian model does."""
    own, truth = black_or_white(512, 2), to_float(black_or_white(60, 5).images)
    seen, ratio = Victim(toy.model(48, 0.6)[0], ALL), []
    wire = seen.query(truth, rng(3))
    for prior in priors:
        monkeypatch.setattr(Ddpm, "learn", lambda *_, prior=prior: prior)
        attack.fit(seen, own, rng())
        found, start = attack.reconstruct(wire), attack.guide.first.reconstruct(wire)
        ratio.append(float(metrics.mse(found, truth).mean() / metrics.mse(start, truth).mean()))
        assert attack.mode == "exact"
    assert ratio[1] < limit < 0.8 < ratio[0]


@pytest.mark.parametrize("attack", [MapAttack(steps=40, lr=0.05, **TINY), DiffusionAttack(steps=20, **TINY)])
def test_a_wire_without_gradient_is_gone_around(attack):
    assert against_start(attack, victim(Rounded()), TRAIN) < 3  # and not as far off as without a gradient
    assert attack.mode == "straight_through"


def test_the_settings_with_the_least_error_on_held_out_images_are_chosen(monkeypatch):
    attack = DiffusionAttack(steps=2, samples=1, **{**TINY, "tuning": 6})
    scripted = []

    def sample(wire, rates, mode):
        scripted.append(rates.tolist())
        away = {0.05: 0.3, 0.1: 0.1, 0.2: 0.2, 0.3: 0.3, 0.5: 0.4}
        shift = torch.tensor([away[round(rate, 2)] for rate in rates.tolist()]).view(-1, 1, 1, 1)
        return attack.guide.truth.repeat(5, 1, 1, 1) + (shift if mode == "exact" else shift - 0.05)

    monkeypatch.setattr(attack, "_sample", sample)
    seen = victim(TopK(0.5))
    attack.fit(seen, TRAIN, rng())
    assert (attack.rate, attack.mode) == (0.1, "straight_through")
    assert [len(rates) for rates in scripted] == [30, 30]
    assert attack.guide.truth.shape == (6, 3, 8, 8)


def test_the_judges_are_kept_from_all_training(monkeypatch):
    seen: list[Split] = []
    learn, fit = Ddpm.learn, LinearAttack.fit
    monkeypatch.setattr(Ddpm, "learn", lambda self, own, *rest: (seen.append(own), learn(self, own, *rest))[1])
    monkeypatch.setattr(
        LinearAttack, "fit", lambda self, v, own, *rest: (seen.append(own), fit(self, v, own, *rest))[1]
    )
    attack = MapAttack(steps=1, weight=1.0, **TINY)
    attack.fit(victim(Gaussian(0.1)), TRAIN, rng())
    judges = {image.numpy().tobytes() for image in (attack.guide.truth * 255).round().to(torch.uint8)}
    assert len(seen) == 2
    for own in seen:
        assert len(own) == 270
        assert not judges & {image.numpy().tobytes() for image in own.images}


def test_a_sampler_that_is_cut_still_answers_with_images():
    seen, errors = victim(Gaussian(0.02)), {}
    for steps in (3, None):
        attack = DiffusionAttack(steps=30, samples=2, guidance=0.3, level=600, **TINY)
        attack.fit(seen, TRAIN, rng())
        attack._runtime = Runtime(budget=Budget(steps=steps))
        truth = to_float(TEST.images)
        errors[steps] = float(metrics.mse(attack.reconstruct(seen.query(truth, rng(1))), truth).mean())
    assert errors[None] < errors[3] < 1.5 * errors[None]


def test_map_without_noise_on_the_wire_does_not_divide_by_zero():
    attack = MapAttack(steps=2, weight=1.0, start="mean", **TINY)
    seen = victim(Gaussian(0.0))
    attack.fit(seen, TRAIN, rng())
    assert attack.guide.box.noise == 0
    assert bool(attack.reconstruct(seen.query(to_float(TEST.images), rng())).isfinite().all())


# Bad settings


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        *((DiffusionAttack, name) for name in ("steps", "samples", "width", "batch_size", "draws", "tuning")),
        *((MapAttack, name) for name in ("steps", "width", "batch_size", "draws", "tuning")),
    ],
)
def test_bad_counts(attack, name):
    with pytest.raises(UserError, match=rf"^\w+: {name} is 0; expected a whole number from 1"):
        attack(**{name: 0})


@pytest.mark.parametrize(
    ("level", "says"), [(1000, "; expected a whole number from"), (249, ", steps 250; expected one from 250 to 999")]
)
def test_bad_diffusion_level(level, says):
    with pytest.raises(UserError, match=f"diffusion: level is {level}{says}"):
        DiffusionAttack(level=level)


@pytest.mark.parametrize("guidance", [-0.1, 1.1])
def test_bad_guidance(guidance):
    with pytest.raises(UserError, match=f"diffusion: guidance is {guidance}; expected a number from 0 to 1"):
        DiffusionAttack(guidance=guidance)


@pytest.mark.parametrize("bad", [{"low": -1}, {"high": 1000}, {"high": 10}, {"weight": -1.0}, {"lr": 0.0}])
def test_bad_map_levels_and_weights(bad):
    ((name, value),) = bad.items()
    with pytest.raises(UserError, match=f"^map: {name} is {value}.*; expected a"):
        MapAttack(**bad)


@pytest.mark.parametrize("attack", [MapAttack, DiffusionAttack])
def test_they_need_three_images(attack):
    name = attack.__name__.removesuffix("Attack").lower()
    with pytest.raises(UserError, match=f"{name}: the attacker has 2 images; expected at least 3"):
        attack().fit(Victim(toy.model(8, 0.1)[0], ALL), toy.images(2, 0), rng())
