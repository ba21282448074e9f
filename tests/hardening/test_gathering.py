"""What water-filling knows of a model, against closed forms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from splitveil.data import to_float
from splitveil.defenses._waterfilling import Directions, Statistics
from splitveil.defenses.gaussian import Gaussian
from splitveil.errors import UserError
from splitveil.hardening import gathering
from splitveil.hardening import ground as grounds
from splitveil.hardening.gathering import gather
from splitveil.hardening.ground import ground
from splitveil.model import SplitModel


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 400, size: int = 4) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), generator=rng(), dtype=torch.uint8)


def linear(features: int = 6, tail: nn.Module | None = None, size: int = 4) -> SplitModel:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(3 * size**2, features))
    return SplitModel(encoder, tail or nn.Linear(features, 2), example=torch.rand(1, 3, size, size)).eval()


def test_means_and_covariances_are_those_of_the_samples():
    model, pixels = linear(), images()
    found = gather(model, pixels, rng())
    x = to_float(pixels).flatten(1).double()
    z = model.features(to_float(pixels)).detach().double()
    both = torch.cov(torch.cat([z, x], 1).T, correction=0)
    torch.testing.assert_close(found.mean, z.mean(0))
    torch.testing.assert_close(found.covariance, both[:6, :6])
    torch.testing.assert_close(found.pixels, both[6:, :6])
    assert found.variance == pytest.approx(float(both[6:, 6:].diagonal().sum()))


def test_the_fisher_information_of_a_logistic_tail_has_its_closed_form():
    weight = torch.tensor([1.0, -2.0, 0.5, 0.0, 3.0, 0.1])
    tail = nn.Linear(6, 2)
    with torch.no_grad():
        tail.weight.copy_(torch.stack([torch.zeros(6), weight]))
        tail.bias.zero_()
    model, pixels = linear(tail=tail), images(4000)
    found = gather(model, pixels, rng(), passes=10).fisher
    p = torch.sigmoid(model.features(to_float(pixels)) @ weight)
    exact = float((p * (1 - p)).mean()) * weight.outer(weight).double()
    torch.testing.assert_close(found, exact, rtol=0.03, atol=0.01 * float(exact.max()))


def test_the_tail_is_examined_at_the_noisy_wire():
    model = linear(tail=nn.Sequential(nn.Linear(6, 2), nn.Flatten()))
    noisy = SplitModel(model.encoder, model.tail, defense=[Gaussian(30.0)], example=torch.rand(1, 3, 4, 4)).eval()
    far, near = (gather(one, images(), rng()).fisher.diagonal().sum() for one in (noisy, model))
    assert float(far) < 0.5 * float(near)  # far from the boundary the answer is certain


def test_large_images_are_summed_up_without_a_change_of_what_directions_explain(monkeypatch):
    pixels = images(2000, 8)
    whole = gather(linear(size=8), pixels, rng())
    monkeypatch.setattr(gathering, "SKETCH", 150)
    some = gather(linear(size=8), pixels, rng())
    assert some.pixels.shape == (150, 6)
    assert some.variance == pytest.approx(whole.variance)
    exact, found = whole.pixels.square().sum(), some.pixels.square().sum()
    assert float(found) == pytest.approx(float(exact), rel=0.3)


def test_too_few_images_are_refused():
    said = "11 images are too few for a wire of 6 values; waterfill needs at least 12"
    with pytest.raises(UserError, match=said) as refusal:
        gather(linear(), images(11), rng())
    assert "train on more images, or make the wire narrower" in str(refusal.value)


def test_a_wide_vector_is_refused():
    with pytest.raises(UserError, match=r"the shape \(5000,\), 5,000 values; hardening takes vectors of at most 4,096"):
        ground(linear(5000), images(10), rng(), None)


def test_chance_correlations_explain_nothing():
    torch.manual_seed(0)
    noise = SplitModel(nn.Flatten(), nn.Linear(48, 2), example=torch.rand(1, 3, 4, 4)).eval()
    found = gather(noise, images(400), rng())
    shuffled = replace(found, pixels=torch.randn(48, 48, generator=rng(1), dtype=torch.float64) * chance(found))
    assert float(Directions.of(replace(shuffled, count=math.inf)).explained.sum()) > 0.1
    assert abs(float(Directions.of(shuffled).explained.sum())) < 0.03


def chance(found: Statistics) -> Tensor:
    """Standard deviation of each covariance of N independent samples of a feature and of a pixel."""
    spread = (found.variance / 48) ** 0.5
    return spread * found.covariance.diagonal().sqrt() / found.count**0.5


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("tail", 0.0, "the tail's answer does not depend on the wire"),
        ("encoder", 0.0, "the feature is the same for all images"),
        ("encoder", math.nan, "answers have NaN or infinity"),
        ("tail", math.inf, "NaN or infinity"),
    ],
)
@pytest.mark.parametrize("wide", [False, True])
def test_a_model_from_which_no_noise_follows_is_refused(monkeypatch, part, value, said, wide):
    encoder, tail = nn.Conv2d(3, 2, 1), nn.Sequential(nn.Flatten(), nn.Linear(32, 2))
    with torch.no_grad():
        for weights in {"tail": tail, "encoder": encoder}[part].parameters():
            weights.fill_(value)
    model = SplitModel(encoder, tail, example=torch.rand(1, 3, 4, 4)).eval()
    if wide:
        monkeypatch.setattr(grounds, "MOST", 5)
    with pytest.raises(UserError, match=said):
        ground(model, images(), rng(), None)


def test_images_that_are_all_equal_are_refused():
    with pytest.raises(UserError, match="all images are equal"):
        gather(linear(), torch.full((20, 3, 4, 4), 7, dtype=torch.uint8), rng())
