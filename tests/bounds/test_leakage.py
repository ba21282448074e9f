"""Upper bounds on the leakage, against Gaussian channels whose leakage is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import nn

import splitveil as sv
from splitveil.bounds._examples import channel_of, linear_channel
from splitveil.bounds._gaussians import Mixture, diagonal, full
from splitveil.bounds.base import BoundError, Channel, Estimate
from splitveil.bounds.gaussian_channel import GaussianChannel
from splitveil.bounds.mixture import MixtureBound
from splitveil.data import Split
from splitveil.defenses.cloak import Cloak
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.topk import TopK
from splitveil.defenses.vib import VIB
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.registry import Registry

BOUNDS = (GaussianChannel(), MixtureBound(), MixtureBound(clusters=1))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([1, 3, 8]),
    st.floats(0.05, 2.0),
    st.sampled_from(range(len(BOUNDS))),
)
def test_no_upper_bound_lies_below_the_leakage(seed, dimension, sigma, which):
    channel, exact = linear_channel(sigma, dimension, 400, seed)
    (found,) = BOUNDS[which].estimate(channel, rng(seed))
    assert found.kind == "upper"
    assert found.value > exact - 3.5 * (found.interval.hi - found.interval.mean) / 1.96


def test_the_bounds_are_near_where_the_features_are_gaussian():
    channel, exact = linear_channel(0.3, 16, 20_000, 1)
    for bound in BOUNDS:
        (found,) = bound.estimate(channel, rng())
        assert found.value == pytest.approx(exact, rel=0.02)
        assert found.images == len(channel.held_out)


def test_clusters_bring_the_bound_down_where_the_features_have_them():
    """Two far points in noise: one bit leaks, whereas Gaussian features with this covariance could say far more."""
    y = torch.arange(4000) % 2
    channel = channel_of(10.0 * y[:, None].float().expand(-1, 3), y, 0.5, rng())
    (mixed,), (one,) = (bound.estimate(channel, rng()) for bound in (MixtureBound(), GaussianChannel()))
    assert mixed.value == pytest.approx(math.log(2), abs=0.01)
    assert one.value > 2 * math.log(2)


def test_the_bound_falls_with_the_noise():
    found = [GaussianChannel().estimate(linear_channel(sigma)[0], rng())[0].value for sigma in (0.1, 0.2, 0.4, 0.8)]
    assert found == sorted(found, reverse=True)


def test_the_bound_does_not_change_when_the_wire_is_turned():
    features = torch.randn(600, 5, generator=rng()) * torch.tensor([3.0, 1, 1, 0.1, 0.1])
    turn = torch.linalg.qr(torch.randn(5, 5, generator=rng(1)))[0]
    y = torch.zeros(600, dtype=torch.long)
    plain, turned = (
        full(z.double(), torch.full((5,), 0.01, dtype=torch.float64), y, 1, 0.0) for z in (features, features @ turn)
    )
    wire = torch.randn(50, 5, generator=rng(2))
    expected = plain.log_density(wire.double())
    assert torch.allclose(turned.log_density((wire @ turn).double()), expected, atol=1e-4)


@pytest.mark.parametrize("form", [full, diagonal])
def test_the_density_is_that_of_scipy(form):
    z = torch.randn(60, 3, generator=rng(), dtype=torch.float64)
    index = torch.arange(60) % 2
    q = form(z, torch.full((3,), 0.1, dtype=torch.float64), index, 2, 5.0)
    points = torch.randn(7, 3, generator=rng(1), dtype=torch.float64)
    expected = np.zeros(7)
    for weight, mean, factor in zip(q.weights, q.means, q.factors, strict=True):
        covariance = factor @ factor.T if factor.ndim == 2 else factor.square().diag()
        expected += float(weight) * multivariate_normal(mean.numpy(), covariance.numpy()).pdf(points.numpy())
    assert np.allclose(q.log_density(points).numpy(), np.log(expected))


def test_groups_have_their_own_covariance():
    z = torch.randn(4000, 2, generator=rng(), dtype=torch.float64)
    index = torch.arange(4000) % 2
    z[index == 1] *= 3
    q = full(z, torch.zeros(2, dtype=torch.float64), index, 2, 1.0)
    found = (q.factors @ q.factors.mT).diagonal(dim1=1, dim2=2)
    assert torch.allclose(found, torch.tensor([[1.0, 1.0], [9.0, 9.0]], dtype=torch.float64), rtol=0.1)


def model_with(*defenses) -> Channel:
    model = SplitModel(nn.Flatten(), nn.Identity(), defense=list(defenses), example=torch.rand(1, 3, 4, 4))
    images = torch.randint(0, 256, (60, 3, 4, 4), generator=rng(), dtype=torch.uint8)
    return Channel.of(model, Split(images, torch.arange(60) % 2), rng())


def test_noises_add_and_a_fixed_change_comes_before_them():
    law = model_with(TopK(0.5), Gaussian(0.3), Gaussian(0.4)).conditional("fit")
    assert torch.allclose(law.variance, torch.tensor(0.25, dtype=torch.float64))
    assert float((law.mean == 0).float().mean()) == 0.5


def test_learned_noise_has_its_own_variance_in_every_entry():
    channel = model_with(Cloak(1.0))
    (cloak,) = [part for part in channel.model.modules() if isinstance(part, Cloak)]
    cloak.rho.data.copy_(torch.linspace(-2, 2, 48))
    law = channel.conditional("choose")
    wires = torch.stack([channel.model.protect(channel.features("choose"), rng(seed)) for seed in range(2000)])
    assert torch.allclose(wires.var(0).mean(0).double(), law.variance[0], rtol=0.1)


def test_noise_that_depends_on_the_image_has_that_variance():
    model = SplitModel(nn.Conv2d(3, 4, 2), nn.Flatten(), defense=[VIB()], example=torch.rand(1, 3, 4, 4))
    (vib,) = [part for part in model.modules() if isinstance(part, VIB)]
    nn.init.normal_(vib.log_sigma.weight, generator=rng())  # type: ignore[arg-type]
    images = torch.randint(0, 256, (60, 3, 4, 4), generator=rng(), dtype=torch.uint8)
    channel = Channel.of(model, Split(images, torch.arange(60) % 2), rng())
    law = channel.conditional("choose")
    wires = torch.stack([model.protect(channel.features("choose"), rng(seed)) for seed in range(2000)])
    assert torch.allclose(wires.var(0).flatten(1).double(), law.variance, rtol=0.2)
    assert float(law.variance.std(0).min()) > 0


@pytest.mark.parametrize(
    ("defenses", "message"),
    [
        ((), "the wire carries no noise"),
        ((Gaussian(0.0),), "the wire carries no noise"),
        ((Gaussian(0.1), Dropout(0.5)), "has no Gaussian density given the image"),
        ((Gaussian(0.1), TopK(0.5)), "has no Gaussian density given the image"),
    ],
)
def test_what_has_no_density_is_refused(defenses, message):
    with pytest.raises(BoundError, match=message):
        MixtureBound().estimate(model_with(*defenses), rng())


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="19 images; a bound needs at least 20"):
        Channel.of(
            SplitModel(nn.Flatten(), nn.Identity()),
            Split(torch.zeros(19, 3, 4, 4, dtype=torch.uint8), torch.zeros(19, dtype=torch.long)),
            rng(),
        )


def test_an_estimate_is_finite_and_says_what_it_is():
    with pytest.raises(UserError, match="an estimate is inf; expected a finite number"):
        Estimate(math.inf, "upper", "leakage")
    with pytest.raises(UserError, match="kind is 'best'; expected one of lower, upper, point"):
        Estimate(1.0, "best", "leakage")  # type: ignore[arg-type]
    assert Estimate(1.0, "point", "mse").as_dict()["unit"] == "squared pixel range"


def test_a_mixture_is_normalized():
    q = Mixture(torch.tensor([0.3, 0.7]), torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [0.5]]))
    points = torch.linspace(-8, 8, 4001)
    assert float(q.log_density(points[:, None]).exp().sum() * (points[1] - points[0])) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("name", Registry("bounds").names())
def test_every_bound_answers_or_says_why_not_and_repeats_itself(name):
    bound = Registry("bounds").get(name)()
    channel, _ = linear_channel(0.5, 4, 200)
    found = bound.estimate(channel, rng(3))
    assert found == bound.estimate(channel, rng(3))
    assert all(isinstance(one, Estimate) and one.about for one in found)
    assert all(one.assumptions for one in found if one.kind != "point")


def test_from_python():
    channel, exact = linear_channel(0.5, 4, 800)
    images = (channel.held_out.images, channel.held_out.labels)
    (found,) = sv.bound(channel.model, sv.GaussianChannel(), images)
    assert found.value == pytest.approx(exact, rel=0.2)
    assert sv.bound(channel.model, "channel", images) == [found]
