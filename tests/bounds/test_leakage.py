"""Upper bounds on the leakage, against Gaussian channels whose leakage is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import hypergeom, multivariate_normal
from torch import nn

import splitveil as sv
from splitveil.bounds import linkage
from splitveil.bounds._examples import channel_of, linear_channel, linear_pixels
from splitveil.bounds._gaussians import Groups, Mixture, diagonal, full
from splitveil.bounds.base import BoundError, Channel, Estimate
from splitveil.bounds.fisher import FisherBound
from splitveil.bounds.gaussian_channel import GaussianChannel
from splitveil.bounds.linkage import Linkage, closer
from splitveil.bounds.mixture import MixtureBound
from splitveil.bounds.pac import PAC, best_success
from splitveil.bounds.pairwise import PairwiseBound
from splitveil.data import Split
from splitveil.defenses._codec_choice import fit
from splitveil.defenses.base import Stack
from splitveil.defenses.cloak import Cloak
from splitveil.defenses.codec import Codec
from splitveil.defenses.dropout import Dropout
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.laplace import Laplace
from splitveil.defenses.local_dp import LocalDP
from splitveil.defenses.topk import TopK
from splitveil.defenses.vib import VIB
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.registry import Registry
from splitveil.statistics.intervals import Interval, binomial_ci

UPPER = (GaussianChannel(), MixtureBound(), MixtureBound(clusters=1))


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_bounds_are_near_where_the_features_are_gaussian():
    channel, exact = linear_channel(0.3, 16, 20_000, 1)
    for bound in UPPER:
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
        full(Groups(z.double(), y, 1), torch.full((5,), 0.01, dtype=torch.float64), 0.0)
        for z in (features, features @ turn)
    )
    wire = torch.randn(50, 5, generator=rng(2))
    expected = plain.log_density(wire.double())
    assert torch.allclose(turned.log_density((wire @ turn).double()), expected, atol=1e-4)


@pytest.mark.parametrize("form", [full, diagonal])
def test_the_density_is_that_of_scipy(form):
    z = torch.randn(60, 3, generator=rng(), dtype=torch.float64)
    index = torch.arange(60) % 2
    q = form(Groups(z, index, 2), torch.full((3,), 0.1, dtype=torch.float64), 5.0)
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
    q = full(Groups(z, index, 2), torch.zeros(2, dtype=torch.float64), 1.0)
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
        ((), "the wire carries no noise: .* the leakage is infinite"),
        ((Gaussian(0.0),), "the wire carries no noise"),
        ((Gaussian(0.1), Dropout(0.5)), "gaussian, dropout has no Gaussian density .* linkage and infonce need none"),
        ((TopK(0.5), Laplace(0.1)), "topk, laplace has no Gaussian density given the image"),
    ],
)
def test_what_has_no_density_is_refused_in_one_line_that_names_what_remains(defenses, message):
    with pytest.raises(BoundError, match=message) as refused:
        MixtureBound().estimate(model_with(*defenses), rng())
    assert "\n" not in str(refused.value)


def test_a_coded_wire_without_noise_tells_no_more_than_its_bits():
    channel = channel_of(torch.randn(200, 8, generator=rng()), torch.zeros(200, dtype=torch.long), 0.5, rng())
    codec = Codec("uint2")
    codec.set_grid(fit(channel.features("fit"), 2))
    channel.model.defense = Stack(codec)
    with pytest.raises(BoundError, match=r"carries no noise: .* its 16 bits \(11 nats\) limits") as refused:
        MixtureBound().estimate(channel, rng())
    assert "infinite" not in str(refused.value)


def test_too_few_images_are_refused():
    with pytest.raises(UserError, match="19 images; a bound needs at least 20"):
        Channel.of(
            SplitModel(nn.Flatten(), nn.Identity()),
            Split(torch.zeros(19, 3, 4, 4, dtype=torch.uint8), torch.zeros(19, dtype=torch.long)),
            rng(),
        )


def test_an_estimate_is_finite_and_says_what_it_is():
    with pytest.raises(UserError, match="an estimate is inf; expected finite numbers"):
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
    channel, _ = linear_pixels(0.5) if name in ("fisher", "van_trees") else linear_channel(0.5, 4, 200)
    if name == "dp":
        channel.model.defense = Stack(LocalDP())
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


# Linkage, pairs, PAC and Fisher


def test_linkage_is_what_a_simulation_of_galleries_gives():
    wires, candidates = torch.randn(60, 3, generator=rng()), torch.randn(60, 3, generator=rng(1)) * 0.5
    candidates += wires
    nearer, ties = closer(wires, candidates)
    assert not ties.any()
    distance = torch.cdist(wires, candidates)
    hits = []
    for draw in range(4000):
        target = draw % 60
        others = torch.randperm(59, generator=rng(draw))[:9]
        others = others + (others >= target)
        hits.append(bool((distance[target, others] > distance[target, target]).all()))
    expected = hypergeom.cdf(0, 59, nearer.numpy(), 9).mean()
    assert np.mean(hits) == pytest.approx(expected, abs=4 * 0.5 / 4000**0.5)


def test_equal_photos_cannot_be_told_apart():
    z = torch.tensor([[0.0], [0.0], [5.0]])
    assert closer(z, z).tolist() == [[0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize("top", [1, 3])
def test_a_wire_that_carries_nothing_is_linked_by_chance(top):
    """All candidates were as near, and took the middle rank: 0.1 % where guessing has 10, and Fano gave a leakage."""
    channel = channel_of(torch.zeros(300, 8), torch.zeros(300, dtype=torch.long), 0.5, rng())
    found = Linkage(top).estimate(channel, rng())
    chances = [one.value for one in found if one.quantity == "success"]
    assert chances == pytest.approx([top / 10, top / 100])
    for one in found:
        if one.quantity == "leakage":
            assert one.interval is not None
            assert (one.value, one.interval.lo) == (0, 0)


def test_fano_says_nothing_below_chance():
    below = Estimate(0.001, "lower", "success", images=100, interval=Interval(0.001, 0.0, 0.009))
    found = linkage._leakage(below, 100)
    assert found.interval is not None
    assert (found.value, found.interval.lo, found.interval.hi) == (0, 0, 0)


def test_linkage_at_no_and_at_huge_noise():
    clear, blurred = (Linkage().estimate(linear_channel(sigma)[0], rng()) for sigma in (1e-3, 1e3))
    assert [one.value for one in clear[:-1]] == pytest.approx([1.0] * 3, abs=1e-3)
    assert [one.value for one in blurred[:-1]] == pytest.approx([0.1, 0.01, 0.001], abs=0.004)
    assert clear[-1].value == pytest.approx(math.log(1000), rel=0.02)


def test_photos_that_are_all_found_leave_the_interval_of_as_many_hits():
    """One in some hundred images may still not be found, of which 160 wires say nothing: [1, 1] was no interval."""
    found = Linkage().estimate(linear_channel(1e-3, 8, 400)[0], rng())
    for one in found[:-1]:
        assert one.interval is not None
        assert (one.value, one.interval.lo) == pytest.approx((1, binomial_ci(160, 160).lo), abs=1e-4)
    leakage = found[-1].interval
    assert leakage is not None
    assert leakage.lo < 0.96 * leakage.mean


def test_linkage_holds_a_rare_photo_that_is_not_found():
    """Images of which 3 % have the same feature; the bootstrap of 40 wires held the truth in three of ten draws."""
    lost, held = 0.03, 0
    truth = 1 - lost + (1 - (1 - lost) ** 10) / 10  # the attacker chooses between equals by chance
    for seed in range(60):
        draw = rng(seed)
        z = 100 * torch.randn(100, 16, generator=draw)
        z[torch.rand(100, generator=draw) < lost] = 0
        channel = channel_of(z, torch.zeros(100, dtype=torch.long), 0.5, draw)
        found = Linkage().estimate(channel, rng(seed))[0].interval
        assert found is not None
        held += found.lo <= truth <= found.hi
    assert held >= 56


def test_a_gallery_of_more_than_the_held_out_images_takes_all(monkeypatch):
    monkeypatch.setattr(linkage, "GALLERIES", (10, 60))
    channel = linear_channel(1.0, 3, 100)[0]
    small, large, _ = Linkage().estimate(channel, rng())
    wires = channel.conditional("held_out").draw(rng())
    means = torch.cat([channel.conditional(part).mean for part in ("held_out", "fit", "choose")])
    distance = torch.cdist(wires, means)
    before = (distance < distance.diagonal()[:, None]).sum(1).numpy()
    assert (small.images, large.images) == (40, 100)
    assert large.value == pytest.approx(hypergeom.cdf(0, 99, before, 59).mean(), abs=0.01)
    same = Linkage().estimate(Channel(channel.model, *[channel.held_out] * 3), rng())
    assert [one.quantity for one in same] == ["success", "leakage"]  # the parts are one set of images


def test_ten_thousand_candidates():
    clear, blurred = (Linkage().estimate(linear_channel(sigma, images=10_000)[0], rng()) for sigma in (1e-3, 1e3))
    assert "among 10,000, chance 0.01 %" in clear[3].about
    assert clear[3].value == pytest.approx(1, abs=1e-3)
    assert blurred[3].value == pytest.approx(1e-4, abs=2e-4)
    assert clear[-1].value == pytest.approx(math.log(10_000), rel=0.02)
    law = model_with(Gaussian(0.1), Dropout(0.5))  # a critic learned from the others
    assert len(Linkage().estimate(law, rng())) == 2


def test_linkage_takes_a_defense_without_a_density():
    rows = torch.randn(200, 16, generator=rng())
    channel = channel_of(rows, torch.zeros(200, dtype=torch.long), 0.1, rng())
    channel.model.defense = Stack(Laplace(0.1))
    found = Linkage().estimate(channel, rng())
    assert found[0].value > 0.9


def test_pairs_are_between_and_never_above_the_number_of_images():
    channel, _ = linear_channel(1e-3, 4, 400)
    lower, upper = PairwiseBound().estimate(channel, rng())
    assert lower.value <= upper.value == pytest.approx(math.log(160))


def test_pairs_lie_on_both_sides_of_the_leakage_of_two_hundred_images():
    """The leakage of 200 equally likely images in three dimensions, σ = 0.5, by Monte Carlo."""
    channel = channel_of(torch.randn(500, 3, generator=rng()), torch.zeros(500, dtype=torch.long), 0.5, rng())
    lower, upper = PairwiseBound().estimate(channel, rng())
    law = channel.conditional("held_out")
    wires = law.mean.repeat(100, 1)
    wires = wires + 0.5 * torch.randn(wires.shape, generator=rng(), dtype=wires.dtype)
    logs = -(torch.cdist(wires, law.mean).square() / (2 * 0.5**2))
    own = logs.view(100, 200, 200).diagonal(dim1=1, dim2=2).flatten()
    exact = float((own - logs.logsumexp(1)).mean()) + math.log(200)
    assert (lower.value, exact, upper.value) == pytest.approx((1.79, 2.34, 3.41), abs=0.1)
    assert lower.value < exact < upper.value


@pytest.mark.parametrize(
    ("prior", "nats", "success"), [(0.5, 1 / 8, 0.74464), (0.5, 0.5, 0.95181), (0.01, 0.5, 0.22177)]
)
def test_the_best_success_of_known_cases(prior, nats, success):
    assert best_success(prior, nats) == pytest.approx(success, abs=1.5e-5)


def test_pairs_of_two_images_have_a_closed_form():
    z = torch.tensor([[0.0], [3.0]]).repeat(50, 1)
    channel = channel_of(z, torch.arange(100) % 2, 1.0, rng())
    lower, upper = PairwiseBound().estimate(channel, rng())
    for found, scale in ((lower, 8), (upper, 2)):
        assert found.value == pytest.approx(-math.log((1 + math.exp(-9 / scale)) / 2), abs=1e-6)


@given(st.floats(1e-6, 0.999), st.floats(0, 20))
def test_the_best_success_solves_its_equation(prior, nats):
    p = best_success(prior, nats)
    assert prior <= p <= 1
    if p < 1 - 1e-9:
        solved = p * math.log(p / prior) + (1 - p) * math.log((1 - p) / (1 - prior))
        assert solved == pytest.approx(nats, abs=1e-5)


def test_pac_says_where_it_excludes_nothing():
    (vacuous,) = PAC(0.001).estimate(linear_channel(0.01)[0], rng())
    assert vacuous.value == 1
    assert "more than 6.91 nats, so that it excludes nothing" in vacuous.about
    (some,) = PAC(0.001).estimate(linear_channel(5.0)[0], rng())
    assert 0.001 < some.value < 0.5


def test_a_step_in_the_encoder_is_named():
    channel, _ = linear_pixels(0.5)
    channel.model.encoder.append(nn.ReLU())  # type: ignore[operator]
    channel._features.clear()
    (found,) = FisherBound().estimate(channel, rng())
    assert "It has ReLU: it is so nearly everywhere only." in found.assumptions[1]


def test_noise_that_differs_between_images_is_refused():
    model = SplitModel(nn.Conv2d(3, 4, 2), nn.Flatten(), defense=[VIB()], example=torch.rand(1, 3, 4, 4))
    (vib,) = [part for part in model.modules() if isinstance(part, VIB)]
    nn.init.normal_(vib.log_sigma.weight, generator=rng())  # type: ignore[arg-type]
    images = torch.randint(0, 256, (60, 3, 4, 4), generator=rng(), dtype=torch.uint8)
    channel = Channel.of(model, Split(images, torch.arange(60) % 2), rng())
    for bound in (PairwiseBound(), FisherBound()):
        with pytest.raises(BoundError, match="the noise differs between images"):
            bound.estimate(channel, rng())


def test_the_error_of_unbiased_attackers_is_that_of_the_linear_encoder():
    for sigma in (0.2, 0.5):
        channel, exact = linear_pixels(sigma, side=5)  # 75 pixels: random directions
        (found,) = FisherBound(directions=50).estimate(channel, rng())
        assert found.value == pytest.approx(exact, rel=0.05)
        assert found.value != pytest.approx(exact, rel=1e-4)
        channel, exact = linear_pixels(sigma)  # 48: a derivative by each
        (found,) = FisherBound(directions=1).estimate(channel, rng())
        assert found.value == pytest.approx(exact, rel=1e-5)
