"""Every bound on random linear-Gaussian channels, whose least error and leakage are known in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from torch import Tensor

from splitveil.bounds._examples import channel_of, gaussian_pixels, linear_channel
from splitveil.bounds.base import Bound, Channel, Estimate
from splitveil.bounds.dp import epsilons
from splitveil.bounds.entropy import EntropyError
from splitveil.bounds.gaussian_channel import GaussianChannel
from splitveil.bounds.infonce import InfoNCE
from splitveil.bounds.mixture import MixtureBound
from splitveil.bounds.pac import PAC
from splitveil.data import to_float
from splitveil.defenses.local_dp import LocalDP
from splitveil.registry import Registry

DEVIATION = 0.1
SETTINGS = {
    "entropy": lambda: EntropyError(smoothing=0.003),
    "infonce": lambda: InfoNCE(steps=0),
    "pac": lambda: PAC(prior=0.1),
}
"""Bounds that are tried with other settings than the defaults, for a closed form or for speed."""
NAMES = [name for name in Registry("bounds").names() if name != "dp"]
channels = st.tuples(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 5), st.floats(0.05, 1.0))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bound_named(name: str) -> Bound:
    return SETTINGS.get(name, Registry("bounds").get(name))()


def drawn(seed: int, pixels: int, outputs: int) -> Tensor:
    return torch.randn(outputs, pixels, generator=rng(seed))


def error(found: Estimate) -> float:
    """Standard error of an estimate, with that of its computation in single precision."""
    sampled = 0.0 if found.interval is None else (found.interval.hi - found.interval.lo) / (2 * 1.96)
    if found.interval and found.kind == "upper" and found.interval.lo == 0:  # the lower end is cut
        sampled = (found.interval.hi - found.interval.mean) / 1.96
    return sampled + 1e-6 * abs(found.value)


def linear_attack(channel: Channel) -> tuple[float, float]:
    """The error of least squares from wires to images, and its standard error."""

    def wires(part: str) -> Tensor:
        wire = channel.conditional(part).draw(rng(1)).float()
        return torch.cat([wire, torch.ones_like(wire[:, :1])], 1)

    weights = torch.linalg.lstsq(wires("fit"), to_float(channel.fit.images).flatten(1)).solution
    errors = (wires("held_out") @ weights - to_float(channel.held_out.images).flatten(1)).square().mean(1)
    return float(errors.mean()), float(errors.std() / len(errors) ** 0.5)


def exact_of(found: Estimate, name: str, encoder: Tensor, sigma: float, left: Tensor, nats: float) -> float:
    """What a bound is about: the leakage, or the least error of all attackers or of the unbiased ones."""
    if found.quantity == "leakage":
        return nats
    if name == "fisher":
        return encoder.shape[1] * sigma**2 / float(encoder.square().sum())
    return float(left.mean())


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(channels)
def test_every_bound_is_on_its_side(name, drawing):
    seed, pixels, outputs, sigma = drawing
    encoder = drawn(seed, pixels, outputs)
    channel, left, nats = gaussian_pixels(encoder, sigma, DEVIATION, 400, seed)
    for found in bound_named(name).estimate(channel, rng(seed + 1)):
        if found.quantity == "success" or "known images" in found.about:  # the former are compared below
            continue
        exact, slack = exact_of(found, name, encoder, sigma, left, nats), 3 * error(found) + 1e-9
        if found.kind == "lower":
            assert found.value <= exact + slack, found
        if found.kind == "upper":
            assert found.value >= exact - slack, found
        if found.quantity == "mse" and name != "fisher":
            attack, attack_error = linear_attack(channel)
            assert found.value <= attack + slack + 3 * attack_error, found


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(channels)
def test_every_bound_moves_with_the_noise_and_not_with_a_rotation(name, drawing):
    seed, pixels, outputs, sigma = drawing
    encoder = drawn(seed, pixels, outputs)
    turn = torch.linalg.qr(drawn(seed + 1, outputs, outputs))[0]
    kinds = ((encoder, sigma), (encoder, 3 * sigma), (turn @ encoder, sigma))
    found, noisier, turned = (
        bound_named(name).estimate(gaussian_pixels(w, s, DEVIATION, 400, seed)[0], rng(seed + 1)) for w, s in kinds
    )
    for one, more, other in zip(found, noisier, turned, strict=True):
        sign = 1 if one.quantity == "mse" else -1
        assert sign * (more.value - one.value) >= -error(one) - error(more)
        if one.interval:
            assert abs(one.value - other.value) <= 3 * math.hypot(error(one), error(other)) + 1e-9
        else:
            assert other.value == pytest.approx(one.value, rel=0.25)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(channels)
def test_no_attack_is_better_than_the_closed_form(drawing):
    seed, pixels, outputs, sigma = drawing
    channel, left, _ = gaussian_pixels(drawn(seed, pixels, outputs), sigma, DEVIATION, 400, seed)
    attack, attack_error = linear_attack(channel)
    assert float(left.mean()) <= attack + 3 * attack_error


@settings(max_examples=15, deadline=None, derandomize=True)
@given(channels)
def test_no_linkage_succeeds_more_often_than_the_leakage_allows(drawing):
    seed, pixels, outputs, sigma = drawing
    channel, *_ = gaussian_pixels(drawn(seed, pixels, outputs), sigma, DEVIATION, 400, seed)
    ten = bound_named("linkage").estimate(channel, rng(seed + 1))[0]
    (most,) = PAC(prior=0.1).estimate(channel, rng(seed + 1))
    assert ten.value <= most.value + 3 * error(ten)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(channels)
def test_the_three_errors_are_harmonic_geometric_and_arithmetic_means(drawing):
    seed, pixels, outputs, sigma = drawing
    channel, left, _ = gaussian_pixels(drawn(seed, pixels, outputs), sigma, DEVIATION, 2000, seed)
    scalar, matrix = bound_named("van_trees").estimate(channel, rng(seed + 1))
    (entropy,) = bound_named("entropy").estimate(channel, rng(seed + 1))
    means = (1 / (1 / left).mean(), left.log().mean().exp(), left.mean())
    for found, expected in zip((scalar, entropy, matrix), means, strict=True):
        assert abs(found.value - float(expected)) <= 3 * error(found) + 0.04 * float(expected), found
    assert scalar.value <= matrix.value * (1 + 1e-6)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(channels, st.floats(0.1, 10), st.integers(1, 5))
def test_two_images_are_told_apart_as_often_as_epsilon_allows_at_most(drawing, epsilon, queries):
    """The best test of N(z, σ²) against N(z', σ²) is right in Φ(√k ‖z − z'‖/2σ) of cases."""
    seed, pixels, outputs, _ = drawing
    features = 0.3 * torch.randn(40, pixels, generator=rng(seed)) @ drawn(seed, pixels, outputs).T
    defense = LocalDP(epsilon, mechanism="gaussian", per="image", norm=1.0, delta=1e-3)
    channel = channel_of(features, torch.arange(40) % 2, 1.0, rng())
    clipped = features / features.norm(dim=1, keepdim=True).clamp(min=1.0)
    distance = torch.cdist(clipped, clipped) / defense.noise_scale(outputs)
    right = ndtr(queries**0.5 * distance.numpy() / 2).max()
    found = epsilons(defense, channel.dimension, queries)[1]
    assert right <= (math.exp(found) + defense.delta) / (1 + math.exp(found)) + 1e-9


@pytest.mark.parametrize("bound", [GaussianChannel(), MixtureBound(), MixtureBound(clusters=1)])
@pytest.mark.parametrize("sigma", [30.0, 300.0])
def test_no_leakage_is_below_0(bound, sigma):
    """So much noise that next to nothing leaks: a mean over few images, or its lower end, would be below."""
    touched = set()
    for seed in range(6):
        (found,) = bound.estimate(linear_channel(sigma, 4, 200, seed)[0], rng(seed))
        assert found.interval is not None
        assert 0 <= found.interval.lo <= found.value == found.interval.mean <= found.interval.hi
        touched |= {found.interval.lo == 0, found.value == 0}
    assert True in touched  # or the test would see nothing
