"""Van Trees, Theorem 1, InfoNCE and differential privacy, part by part."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from splitveil.attacks._ddpm import Ddpm
from splitveil.bounds import entropy
from splitveil.bounds._examples import channel_of, gaussian_pixels, linear_channel, linear_pixels
from splitveil.bounds._jackknife import jackknifed, terms
from splitveil.bounds._prior import ROUNDING, DenoiserPrior, GaussianPrior
from splitveil.bounds._smooth import SmoothWire, pixels_of
from splitveil.bounds._van_trees import error_bound
from splitveil.bounds.base import BoundError, Channel
from splitveil.bounds.dp import DP, composed_gaussian
from splitveil.bounds.fisher import FisherBound
from splitveil.bounds.infonce import InfoNCE
from splitveil.bounds.linkage import Linkage
from splitveil.bounds.pairwise import PairwiseBound
from splitveil.bounds.van_trees import VanTrees
from splitveil.data import Split
from splitveil.defenses.base import Stack
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.laplace import Laplace
from splitveil.defenses.local_dp import LocalDP, gaussian_delta
from splitveil.defenses.topk import TopK
from splitveil.defenses.waterfill import Waterfill
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.statistics.intervals import binomial_ci


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def nonlinear(*defenses, images: int = 60) -> Channel:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Sigmoid(), nn.Flatten())
    pixels = torch.randint(0, 256, (images, 3, 4, 4), generator=rng(), dtype=torch.uint8)
    model = SplitModel(encoder, nn.Identity(), defense=list(defenses), example=torch.rand(1, 3, 4, 4))
    return Channel.of(model, Split(pixels, torch.arange(images) % 2), rng())


# Van Trees


def test_the_forms_are_harmonic_and_arithmetic_means_of_what_the_wire_leaves_open():
    """d = 6 pixels and 5 values, by the formulas themselves; the geometric mean lies between."""
    encoder = torch.randn(5, 6, generator=rng(), dtype=torch.float64)
    total = encoder.T @ encoder / 0.2**2 + torch.eye(6, dtype=torch.float64) / 0.5**2
    left = torch.linalg.inv(total)
    scalar = error_bound(6.0, float(total.trace()), 6)
    matrix = error_bound(float(left.trace()), float((left @ total @ left).trace()), 6)
    nats = 0.5 * float(torch.logdet(2 * math.pi * math.e * left))
    values = torch.linalg.eigvalsh(left)
    expected = (1 / (1 / values).mean(), values.log().mean().exp(), values.mean())
    assert (scalar, entropy.error_bound(nats, 6), matrix) == pytest.approx([float(one) for one in expected])
    assert scalar < entropy.error_bound(nats, 6) < matrix


def test_the_products_have_the_second_moment_of_the_fisher_information():
    channel = nonlinear(Gaussian(0.3))
    wire, x = SmoothWire(channel), pixels_of(channel, "fit", 1, rng())
    found = wire.scores(x.expand(5000, -1, -1, -1), 4, rng()).double().flatten(0, 1)
    moment = found.T @ found / len(found)
    slope = torch.autograd.functional.jacobian(wire.mean, x)[0].flatten(1).double()  # type: ignore
    assert torch.allclose(moment, slope.T @ slope / 0.3**2, atol=0.05 * float(moment.diagonal().max()))


def test_a_matrix_of_any_other_size_makes_the_bound_smaller_only():
    encoder = torch.randn(3, 5, generator=rng(2))
    channel, left, _ = gaussian_pixels(encoder, 0.2, images=2000)
    few = VanTrees(images=10, directions=1).estimate(channel, rng())[1]
    many = VanTrees().estimate(channel, rng())[1]
    assert few.value < many.value < 1.05 * float(left.mean())


def test_a_denoiser_that_knows_gaussian_images_gives_their_score_and_their_bound():
    encoder = torch.randn(3, 6, generator=rng(1))
    channel, _, _ = gaussian_pixels(encoder, 0.2, images=1000)
    prior = DenoiserPrior(channel, Ddpm(0, 8, 64), 200, rng())
    noisy, score = prior.noisy(pixels_of(channel, "held_out", 400, rng()), rng())
    variance = 0.1**2 + prior.deviation**2
    assert torch.allclose(score, (0.5 - noisy) / variance, atol=0.15 * float(score.std()))
    scalar, matrix = VanTrees("denoiser", epochs=0, level=200, width=8).estimate(channel, rng())
    gain = torch.linalg.eigvalsh(encoder.T @ encoder / 0.2**2)
    left = 1 / (gain + 1 / variance)
    assert (scalar.value, matrix.value) == pytest.approx([float(1 / (1 / left).mean()), float(left.mean())], rel=0.08)
    assert f"noise of {prior.deviation:.3f} on their pixels" in matrix.assumptions[0]


@pytest.mark.parametrize("variance", [ROUNDING, 0.1**2])
def test_the_prior_is_the_gaussian_of_the_images_and_of_the_noise_on_them(variance):
    mixing = torch.randn(6, 6, generator=rng()) / 40
    pixels = (0.5 + torch.randn(6000, 6, generator=rng(1)) @ mixing.T).clamp(0, 1)
    images = (pixels * 255).round().to(torch.uint8).view(-1, 1, 2, 3)
    model = SplitModel(nn.Flatten(), nn.Identity(), defense=[Gaussian(0.1)], mean=(0,), std=(1,))
    channel = Channel.of(model, Split(images, torch.zeros(6000, dtype=torch.long)), rng())
    prior = GaussianPrior(channel, rng(), variance)
    x = pixels_of(channel, "held_out", 1000, rng())
    x += (variance - ROUNDING) ** 0.5 * torch.randn(x.shape, generator=rng())
    oracle = torch.distributions.MultivariateNormal(torch.full((6,), 0.5), mixing @ mixing.T + variance * torch.eye(6))
    difference = prior.log_density(x).float() - oracle.log_prob(x.flatten(1))
    assert float(difference.mean()) == pytest.approx(0.0, abs=0.1)
    assert float(difference.abs().mean()) < 0.2


def test_large_images_take_a_diagonal(monkeypatch):
    channel, _ = linear_pixels(0.5)
    for module in ("_prior", "van_trees"):
        monkeypatch.setattr(f"splitveil.bounds.{module}.FULL_UP_TO", 10)
    scalar, diagonal = VanTrees().estimate(channel, rng())
    assert scalar.value <= diagonal.value < 1 / 12


def test_layers_that_are_not_smooth_and_steps_of_a_defense_are_named():
    channel = nonlinear(TopK(0.5), Gaussian(0.3))
    channel.model.encoder.append(nn.ReLU())  # type: ignore[operator]
    for bound in (VanTrees(images=10), FisherBound(images=10)):
        told = bound.estimate(channel, rng())[-1].assumptions[-1]
        assert "It has ReLU: it is so nearly everywhere only." in told
        assert "TopK jumps: what the jumps tell is not counted." in told


def test_numbers_that_are_sent_in_place_of_the_wire_are_differentiated():
    encoder, matrix = torch.randn(5, 6, generator=rng()), torch.randn(3, 5, generator=rng(1))
    channel, _, _ = gaussian_pixels(encoder, 0.2)
    fewer = Waterfill()
    fewer.center, fewer.matrix, fewer.estimate = torch.zeros(5), matrix, torch.randn(5, 3, generator=rng())
    channel.model.defense = Stack(fewer)
    (found,) = FisherBound(directions=50).estimate(channel, rng())
    assert found.value == pytest.approx(6 / float((matrix @ encoder).square().sum()), rel=0.05)


def test_sorted_images_are_looked_at_throughout():
    channel, _ = linear_pixels(0.5)
    channel.held_out.images[:] = torch.arange(len(channel.held_out), dtype=torch.uint8)[:, None, None, None]
    seen = (255 * pixels_of(channel, "held_out", 20, rng())[:, 0, 0, 0]).round()
    assert seen.max() > len(channel.held_out) / 2 > 20


def test_a_wire_without_a_derivative_is_refused():
    with pytest.raises(BoundError, match="the wire has no derivative by the pixels"):
        VanTrees().estimate(linear_channel(0.5, 4, 100)[0], rng())


# Theorem 1


@given(st.floats(-500, 500), st.floats(0, 400), st.integers(300, 4000))
def test_the_factor_is_the_ratio_of_two_bounds(images, difference, pixels):
    more, less = (entropy.error_bound(images - leaked, pixels) for leaked in (50 + difference, 50))
    assert entropy.relative_factor(difference, pixels) == pytest.approx(less / more)


def test_the_entropy_is_a_point_and_says_so():
    (found,) = entropy.EntropyError().estimate(linear_pixels(0.5)[0], rng())
    assert found.kind == "point"
    assert found.assumptions[0].startswith("It is no bound: ")


# InfoNCE


def test_the_interval_is_that_of_leaving_each_image_out():
    scores = torch.randn(12, 12, generator=rng(), dtype=torch.float64) + 3 * torch.eye(12)
    found = jackknifed(scores.split(5))
    kept = [[j for j in range(12) if j != i] for i in range(12)]
    values = torch.stack([terms(scores[rows][:, rows], torch.arange(11)).mean() for rows in kept])
    error = float((11 / 12 * (values - values.mean()).square().sum()).sqrt())
    assert found.mean == pytest.approx(float(terms(scores, torch.arange(12)).mean()))
    assert found.hi - found.mean == pytest.approx(2.200985 * error, rel=1e-4)  # Student's t of 11 degrees


def test_infonce_never_exceeds_the_number_of_images_nor_falls_below_zero():
    for sigma, expected in ((1e-3, math.log(160)), (1e3, 0.0)):
        (found,) = InfoNCE(steps=20).estimate(linear_channel(sigma, 4, 400)[0], rng())
        assert found.value == pytest.approx(expected, abs=0.05)
        assert "It never exceeds ln 160 = 5.08 nats" in found.assumptions[1]


@pytest.mark.parametrize("bound", [InfoNCE(steps=0), PairwiseBound()])
def test_where_every_wire_is_found_a_bound_says_that_it_is_at_its_cap(bound):
    capped, free = (bound.estimate(linear_channel(sigma, 4, 400)[0], rng())[0] for sigma in (1e-4, 0.5))
    assert capped.value == pytest.approx(math.log(160), abs=1e-3)
    assert "at its cap of 5.08" in capped.about
    assert capped.assumptions[-1] == "It is at this cap: far more may leak than it says."
    p = binomial_ci(160, 160).lo  # of so many images at least, and this is Fano's inequality
    least = math.log(160) + p * math.log(p) + (1 - p) * math.log((1 - p) / 159)
    assert capped.interval is not None
    assert capped.interval.lo == pytest.approx(least)
    assert least < 4.9 < capped.interval.hi
    assert "cap" not in " ".join((free.about, *free.assumptions))


@pytest.mark.parametrize("lost", [0.005, 0.02, 0.05])
def test_about_95_of_100_intervals_hold_the_mean_where_few_wires_say_nothing(lost):
    """Many samples of 50 images hold none of these wires."""
    generator, held = rng(3), []
    for _ in range(300):
        says = torch.rand(50, 1, generator=generator) >= lost
        found = jackknifed([50 * torch.eye(50) * says])
        held.append(found.lo <= (1 - lost) * math.log(50) <= found.hi)
    assert sum(held) >= 0.92 * 300


def test_training_tells_a_wire_apart_that_distances_do_not():
    """The square of a feature with mean zero is not correlated with it."""
    features = torch.randn(600, 2, generator=rng())
    channel = channel_of(features, torch.zeros(600, dtype=torch.long), 0.1, rng())
    channel.model.defense = _Squared()
    before, after = (InfoNCE(steps).estimate(channel, rng())[0] for steps in (0, 150))
    assert after.value > before.value + 0.5


class _Squared(nn.Module):
    def on_wire(self, z, rng):
        return z.square() + 0.1 * torch.randn(z.shape, generator=rng)


@pytest.mark.parametrize("defense", [None, Dropout(0.5), Laplace(0.1), LocalDP(50.0)])
def test_what_has_no_density_leaks_all_the_same(defense):
    channel = channel_of(torch.rand(200, 16, generator=rng()), torch.arange(200) % 2, 0.1, rng())
    channel.model.defense = None if defense is None else Stack(defense)
    (found,) = InfoNCE(steps=20).estimate(channel, rng())
    assert found.value > 1
    assert Linkage().estimate(channel, rng())[0].value > 0.5


def test_a_wide_wire_is_summed():
    channel = channel_of(torch.randn(200, 3000, generator=rng()), torch.arange(200) % 2, 1.0, rng())
    (found,) = InfoNCE(steps=0).estimate(channel, rng())
    assert found.value == pytest.approx(math.log(80), abs=0.01)


# Differential privacy


@given(st.floats(0.05, 20), st.floats(1e-8, 0.1), st.integers(1, 50))
def test_queries_to_a_gaussian_mechanism_are_one_with_less_noise(shift, delta, queries):
    found = composed_gaussian(shift, queries, delta)
    assert found == pytest.approx(composed_gaussian(shift * queries**0.5, 1, delta))
    assert gaussian_delta(shift * queries**0.5, found) <= delta * (1 + 1e-9)
    if found > 0:
        assert gaussian_delta(shift * queries**0.5, found * (1 - 1e-6)) >= delta * (1 - 1e-3)


@pytest.mark.parametrize(
    ("defense", "entry", "image"),
    [
        (LocalDP(2.0), 2.0, 2.0 * 36),
        (LocalDP(2.0, per="image"), 2.0 / 36, 2.0),
        (LocalDP(2.0, per="image", norm=3.0), 2.0, 2.0),
        (LocalDP(2.0, mechanism="gaussian", per="image", norm=3.0), 2.0, 2.0),
        (LocalDP(2.0, mechanism="gaussian"), 2.0, None),
        (LocalDP(2.0, mechanism="gaussian", per="image"), None, 2.0),
    ],
)
def test_epsilon_is_that_of_the_defense(defense, entry, image):
    channel = nonlinear(defense)
    found = DP().estimate(channel, rng())
    assert [one.quantity for one in found] == ["epsilon", "epsilon"]
    for one, expected in zip(found, (entry, image), strict=True):
        if expected is not None:
            assert one.value == pytest.approx(expected, rel=1e-6)
    assert found[0].value <= found[1].value


def test_laplace_noise_adds_up_over_queries():
    channel = nonlinear(TopK(0.5), LocalDP(0.5))
    once, several = (DP(observed).estimate(channel, rng()) for observed in (1, 4))
    assert [one.value for one in several] == pytest.approx([4 * one.value for one in once])
    assert "which of two images was sent is told in at most 62.2% of cases" in once[0].about
    assert "it excludes nothing" in several[1].about


def test_other_defenses_promise_no_epsilon():
    for channel in (nonlinear(Laplace(0.1)), nonlinear()):
        with pytest.raises(BoundError, match="the defense promises no differential privacy"):
            DP().estimate(channel, rng())
    with pytest.raises(UserError, match="dp: observed is 0"):
        DP(0)


def test_the_first_forward_derivative_of_a_process_prints_no_warning_of_pytorch():
    code = (
        "import torch; from splitveil.bounds._examples import linear_pixels; "
        "from splitveil.bounds.fisher import FisherBound; "
        "FisherBound().estimate(linear_pixels(sigma=0.5)[0], torch.Generator())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "FutureWarning" not in done.stderr
