"""Water-filling of wide wires by products of directions: exact where the moments are products, sound where not."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from splitveil.attacks._white_box import WhiteBox
from splitveil.data import Access, Split
from splitveil.defenses._law import law_of
from splitveil.defenses._waterfilling import Directions, Statistics
from splitveil.defenses._waterfilling_kronecker import Products, factor_directions
from splitveil.defenses.base import Stack
from splitveil.defenses.waterfill_kronecker import WaterfillKronecker
from splitveil.errors import UserError
from splitveil.hardening import ground as grounds
from splitveil.hardening.gathering_kronecker import gather_products, shape_of
from splitveil.hardening.ground import Factored, Whole, ground
from splitveil.hardening.regression import LEARNED, TRIED, Sample
from splitveil.model import SplitModel
from splitveil.victim import Victim

C, S = 3, 4


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def positive(size: int, seed: int) -> Tensor:
    root = torch.randn(size, size, generator=rng(seed), dtype=torch.float64)
    return root @ root.T / size + 0.1 * torch.eye(size, dtype=torch.float64)


def exact() -> tuple[Statistics, Products]:
    """Moments that are Kronecker products, and what is worth what in the directions of their factors."""
    c, f = (torch.kron(positive(C, seed), positive(S, seed + 10)) for seed in (1, 2))
    pixels = torch.randn(5, C * S, generator=rng(3), dtype=torch.float64) @ c
    known = Statistics(torch.zeros(C * S).double(), c, f, pixels, 40.0)
    p, q = (factor_directions(positive(n, 1 + more), positive(n, 2 + more)) for n, more in ((C, 0), (S, 10)))
    both = torch.kron(p, q)
    back = torch.linalg.inv(both)
    v = (both @ c @ both.T).diagonal()
    fisher = (back.T @ f @ back).diagonal()
    explained = (pixels @ both.T).square().sum(0) / v / 40.0
    return known, Products(known.mean, p, q, v, fisher, explained)


def test_of_products_the_directions_are_those_of_the_whole():
    known, products = exact()
    whole = Directions.of(known)
    torch.testing.assert_close(products.variance, torch.ones(C * S).double())
    torch.testing.assert_close(products.fisher.sort().values, whole.fisher.sort().values)
    for mu in (1.0, 0.01, 1e-4):
        assert products.loss(mu) == pytest.approx(whole.loss(mu))
    both = torch.kron(products.channels, products.places)
    turned = both.T @ torch.linalg.solve(both @ known.covariance @ both.T, both) @ known.covariance
    torch.testing.assert_close(turned, torch.eye(C * S).double(), atol=1e-8, rtol=0)


def sampled(known: Statistics, products: Products, count: int = LEARNED + TRIED) -> Sample:
    """Return a sample of Gaussian features and images with these moments, in the coordinates of the products."""
    z = torch.randn(count, C * S, generator=rng(8), dtype=torch.float64) @ torch.linalg.cholesky(known.covariance).T
    x = z @ torch.linalg.solve(known.covariance, known.pixels.T)
    rest = known.variance - float(x.var(0).sum())
    x += torch.randn(count, 5, generator=rng(9), dtype=torch.float64) * (rest / 5) ** 0.5
    signs = torch.randint(0, 2, (5, 4000), generator=rng(10)).double() * 2 - 1
    return Sample((z @ torch.kron(products.channels, products.places).T).float(), x @ signs, 5)


@pytest.mark.parametrize("mu", [10.0, 0.1])
def test_its_wire_is_as_private_as_that_of_the_whole(mu):
    known, products = exact()
    factored, whole = Factored(products, sampled(known, products)), Whole(known, 5)
    small = 1e-4  # the noise in every entry is no product
    assert factored.noise(mu, small).linear_error == pytest.approx(whole.noise(mu, small).linear_error, rel=0.1)
    assert factored.deviation == pytest.approx(whole.deviation)
    assert factored.sharpness == pytest.approx(whole.sharpness)


def ready(mu: float = 0.01, sigma: float = 0.1) -> tuple[WaterfillKronecker, Products]:
    _, products = exact()
    made = WaterfillKronecker(mu, sigma)
    made._solve(products)
    return made, products


def test_every_direction_has_at_least_the_noise_of_the_training():
    defense, products = ready(mu=1e6, sigma=0.3)
    both = torch.kron(products.channels, products.places)
    floor = 0.09 * (both @ both.T).diagonal()
    torch.testing.assert_close(
        1 / defense._have("scale").double().square(), floor[defense._have("kept")], rtol=1e-5, atol=0
    )


def test_what_was_sent_comes_back_and_the_noise_is_as_it_is_told():
    defense, _ = ready()
    z = torch.randn(20, C, S, generator=rng(4))
    shown = defense.on_wire(z, rng(1))
    noise = torch.randn(20, len(defense._have("kept")), generator=rng(1))
    torch.testing.assert_close(defense._sent_of(shown), defense._sent(z) + noise, atol=1e-3, rtol=1e-3)
    many = torch.cat([defense.on_wire(z[:1], rng(seed)) for seed in range(4000)])
    law = law_of(defense, many)
    torch.testing.assert_close(many.var(0), torch.as_tensor(law.variance), rtol=0.15, atol=1e-4)


def test_directions_of_little_signal_are_not_sent_but_always_one():
    defense, _ = ready(mu=1e-9)
    assert len(defense._have("kept")) < C * S
    silent, _ = ready(mu=1e-9, sigma=1e6)
    assert len(silent._have("kept")) == 1


def model(places: int = 4, tail: nn.Module | None = None) -> SplitModel:
    torch.manual_seed(0)
    encoder = nn.Conv2d(3, C, 3, padding=1)
    size = int(places**0.5)
    tail = tail or nn.Sequential(nn.Flatten(), nn.Linear(C * places, 2))
    return SplitModel(encoder, tail, example=torch.rand(1, 3, size, size)).eval()


def images(count: int = 3000, size: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=rng(), dtype=torch.uint8)


def test_what_is_measured_is_that_of_the_samples(monkeypatch):
    net, pixels = model(), images()
    products, _ = gather_products(net, pixels, rng())
    z = net.features(pixels / 255).detach().double().flatten(1)
    found = (z - z.mean(0)) @ torch.kron(products.channels, products.places).T
    torch.testing.assert_close(products.mean, z.mean(0))
    torch.testing.assert_close(products.variance, found.var(0, correction=0), rtol=1e-5, atol=1e-8)
    x = (pixels / 255).double().flatten(1)
    cross = (x - x.mean(0)).T @ found / len(x)
    share = cross.square().sum(0) / products.variance / float(x.var(0, correction=0).sum())
    torch.testing.assert_close(products.explained, share, rtol=0.3, atol=0.01)


def test_coordinates_that_have_nothing_to_do_with_the_images_explain_nothing_together(monkeypatch):
    """Of each a part of 1/N is chance; without the negative rests their sum would grow with the width of the wire."""
    net, pixels = model(256), images(400, 1).expand(400, 3, 16, 16).contiguous()
    drawn = torch.Generator().manual_seed(7)
    monkeypatch.setattr(net, "features", lambda x: torch.randn(len(x), C, 16, 16, generator=drawn))
    products, sample = gather_products(net, pixels, rng())
    assert abs(float(products.explained.sum())) < 0.2
    assert float(products.explained.clamp_min(0).sum()) > 0.3
    error = sample.error(torch.arange(C * 256), products.noise(1e9, 1.0))
    assert error > 0.9 * float((pixels / 255).flatten(1).var(0).mean())  # nothing is learned


def test_few_images_are_refused_where_no_factor_could_be_measured():
    with pytest.raises(UserError, match=r"99 images are too few for a wire of . × 4 values; use 100"):
        gather_products(model(), images(99), rng())


def test_the_ground_is_whole_where_it_can_be_and_by_products_beyond(monkeypatch):
    assert isinstance(ground(model(), images(), rng(), None), Whole)
    monkeypatch.setattr(grounds, "MOST", 5)
    assert isinstance(ground(model(), images(), rng(), None), Factored)


def test_white_box_attacks_weigh_errors_by_the_likelihood_of_what_is_sent():
    net = model()
    defense = WaterfillKronecker(0.01, 0.1)
    defense._solve(gather_products(net, images(), rng())[0])
    net.defense = Stack(defense)
    victim = Victim(net, frozenset(Access))
    box = WhiteBox(victim, Split(images(40), torch.zeros(40).long()), 4, rng())
    x, other = torch.rand(5, 3, 2, 2, generator=rng(2)), torch.rand(5, 3, 2, 2, generator=rng(3))
    wire = victim.query(other, rng(4))
    unit = box.target(wire).shape[1] * box.scale / (2 * box.noise)
    y, mean = defense._sent_of(wire), defense._sent(net.features(x))
    distance = unit * box.feature_loss(x, box.target(wire), rng(), "exact")
    torch.testing.assert_close(distance, (y - mean).square().sum(1) / 2, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shape", [(70_000,), (5_000,), (70, 32, 32)])
def test_wires_that_are_no_maps_or_too_wide_are_refused(shape):
    net = model()
    net.wire_shape = shape
    with pytest.raises(
        UserError, match=f"{math.prod(shape):,} values; hardening takes vectors of at most 4,096 and maps"
    ):
        shape_of(net)
