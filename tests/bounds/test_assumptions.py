"""What a bound's estimate rests on: images of the population, one wire, a law that is that of the wire."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from splitveil.bounds._closer import closer
from splitveil.bounds._examples import channel_of, gaussian_pixels, linear_channel, linear_pixels
from splitveil.bounds._prior import GaussianPrior
from splitveil.bounds.base import BoundError, Channel, Estimate
from splitveil.bounds.fisher import FisherBound
from splitveil.bounds.gaussian_channel import GaussianChannel
from splitveil.bounds.linkage import Linkage
from splitveil.bounds.pairwise import PairwiseBound
from splitveil.bounds.van_trees import VanTrees
from splitveil.defenses.base import Stack
from splitveil.defenses.codec import Codec
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.topk import TopK
from splitveil.defenses.waterfill import Waterfill
from splitveil.errors import UserError
from splitveil.model import SplitModel
from splitveil.registry import Registry
from splitveil.statistics.intervals import Interval

PARTS = ("fit", "choose", "held_out")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("first", [0.5, 0.6, 0.75, 0.9, 0.99])
def test_the_held_out_images_have_the_classes_of_the_population(first):
    """Of 60 % and 40 % the other parts took as many of each class, and left 75 % and 25 % for the estimate."""
    y = (torch.arange(2000) >= round(2000 * first)).long()
    channel = channel_of(torch.zeros(2000, 2), y, 0.5, rng())
    for part in PARTS:
        share = float((channel.labels(part) == 0).float().mean())
        assert share == pytest.approx(first, abs=1.5 / len(channel.labels(part)))


def test_the_leakage_is_that_of_the_population_where_classes_differ_in_size():
    """Images of one class tell five numbers, those of the other, 40 %, nothing; and all tell their class."""
    y = (torch.rand(20_000, generator=rng()) < 0.4).long()
    features = torch.randn(20_000, 5, generator=rng(1)) * (1 - y[:, None])
    sigma = math.exp(-1)
    features[:, 0] += 50 * y
    exact = 0.6 * 5 * 0.5 * math.log(1 + 1 / sigma**2) - 0.6 * math.log(0.6) - 0.4 * math.log(0.4)
    (found,) = Registry("bounds").get("mixture")(clusters=1).estimate(channel_of(features, y, sigma, rng()), rng())
    assert found.value == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize("name", ["channel", "mixture", "pairwise", "pac"])
def test_every_upper_bound_says_of_how_many_wires_it_is(name):
    """That of `pairwise` did not, and an audit of several wires prints it as it is."""
    found = Registry("bounds").get(name)().estimate(linear_channel(0.5, 4, 100)[0], rng())
    for one in found:
        if one.kind == "upper":
            assert any(told.startswith("One wire of each image is seen") for told in one.assumptions)


def test_several_wires_tell_no_more_than_so_many_times_the_bound_of_pairs():
    few = channel_of(torch.randn(100, 3, generator=rng()), torch.zeros(100, dtype=torch.long), 1.0, rng())
    more = Channel(few.model, few.fit, few.choose, few.held_out)
    more.model = SplitModel(few.model.encoder, nn.Identity(), defense=[Gaussian(0.5)])  # four wires are one of these
    one, four = (PairwiseBound().estimate(channel, rng())[1] for channel in (few, more))
    assert one.value < four.value < 4 * one.value


def hardened(*behind) -> Channel:
    """Features of deviation 30, of which two numbers are sent in units of the noise, and what comes behind them."""
    channel = channel_of(30 * torch.randn(400, 3, generator=rng()), torch.zeros(400, dtype=torch.long), 0.5, rng())
    fewer = Waterfill()
    fewer.center, fewer.matrix = torch.zeros(3), torch.eye(3)[:2] / 30
    fewer.estimate = 30 * torch.eye(3)[:, :2]
    channel.model.defense = Stack(fewer, *behind)
    return channel


def test_noise_behind_a_hardened_wire_has_no_law_that_a_bound_knows():
    """It was added to the numbers, of deviation 1, where it hides half; the wire has deviation 30."""
    two = math.log(2)  # of two numbers with as much noise, ½ ln 2 each
    (alone,) = GaussianChannel().estimate(hardened(), rng())
    assert alone.value == pytest.approx(two, rel=0.1)
    with pytest.raises(BoundError, match="waterfill, gaussian has no Gaussian density"):
        GaussianChannel().estimate(hardened(Gaussian(1.0)), rng())
    assert GaussianChannel().estimate(hardened(Codec("float16")), rng())[0].value == pytest.approx(alone.value)


def test_what_is_kept_of_a_whole_batch_gives_an_image_no_law_of_its_own():
    channel = channel_of(torch.randn(100, 8, generator=rng()), torch.zeros(100, dtype=torch.long), 0.5, rng())
    channel.model.defense = Stack(TopK(0.5, scope="released"), Gaussian(0.5))
    with pytest.raises(BoundError, match="topk, gaussian has no Gaussian density"):
        channel.conditional("fit")
    channel.model.defense = Stack(TopK(1.0, scope="released"), Gaussian(0.5))  # all is kept
    assert torch.equal(channel.conditional("fit").mean, channel.features("fit").double())


@pytest.mark.parametrize("bound", [FisherBound, VanTrees])
def test_one_image_has_no_interval_and_is_refused(bound):
    """The interval was [NaN, NaN]."""
    with pytest.raises(UserError, match="images is 1; expected a whole number from 2"):
        bound(images=1)
    for found in bound(images=2).estimate(linear_pixels(0.5)[0], rng()):
        assert found.interval is not None
        assert found.interval.lo <= found.value <= found.interval.hi


def test_an_estimate_refuses_an_interval_without_ends():
    with pytest.raises(UserError, match=r"an estimate is 1 \[nan, nan\]; expected finite numbers"):
        Estimate(1.0, "lower", "mse", interval=Interval(1.0, math.nan, math.nan))


def test_the_interval_of_van_trees_counts_the_images_that_the_prior_was_fitted_to(monkeypatch):
    """Of large images the Gaussian takes a few hundred; the interval was that of all of them."""
    channel, _, _ = gaussian_pixels(torch.randn(2, 6, generator=rng()), 50.0, images=2000)
    whole = VanTrees().estimate(channel, rng())[1].interval
    monkeypatch.setattr("splitveil.bounds._prior.FEWEST", 40)
    monkeypatch.setattr("splitveil.bounds._prior.ELEMENTS", 1)
    few = VanTrees().estimate(channel, rng())[1].interval
    assert GaussianPrior(channel, rng()).count == 40
    assert whole is not None
    assert few is not None
    # Next to nothing is told by the wire: what is left is the variance of the pixels, of 1,000 and of 40 images.
    assert few.hi - few.lo > 2.5 * (whole.hi - whole.lo)


def test_places_that_need_a_larger_gallery_are_named():
    with pytest.raises(BoundError, match="100 images; linkage with top=100 needs a gallery of at least 1,000"):
        Linkage(top=100).estimate(linear_channel(0.5, 4, 100)[0], rng())
    with pytest.raises(UserError, match="linkage: top is 10000"):
        Linkage(top=10_000)


@pytest.mark.parametrize("value", [0.1, 3.7, 1000.3])
def test_rounding_finds_no_photo(value):
    """Distances to equal candidates differ in their last digits; a wire that carries nothing was linked by those."""
    channel = channel_of(torch.full((1200, 64), value), torch.zeros(1200, dtype=torch.long), 0.037, rng())
    found = Linkage().estimate(channel, rng())
    assert [one.value for one in found] == pytest.approx([0.1, 0.01, 0.001, 0.0], rel=1e-6)


def test_an_offset_of_all_wires_changes_no_distance():
    z = torch.randn(200, 16, generator=rng(), dtype=torch.float64)
    wires = z + 0.5 * torch.randn(200, 16, generator=rng(1), dtype=torch.float64)
    assert torch.equal(closer(wires, z), closer(wires + 2**30, z + 2**30))
    steps = torch.randint(0, 3, (100, 8), generator=rng()) / 8  # exact in single precision beside 2^20
    found, same = (
        [one.value for one in PairwiseBound().estimate(channel_of(rows, torch.arange(100) % 2, 0.125, rng()), rng())]
        for rows in (steps, steps + 2**20)
    )
    assert same == pytest.approx(found, abs=1e-9)
