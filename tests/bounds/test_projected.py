"""Bounds on a wire whose noise comes before a projection: correlated there, independent in its directions."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import nn

from splitveil.bounds._examples import Rows
from splitveil.bounds.base import BoundError, Channel
from splitveil.bounds.gaussian_channel import GaussianChannel
from splitveil.data import Split
from splitveil.defenses._codec_choice import fit
from splitveil.defenses._law import law_of
from splitveil.defenses.base import Defense, Stack
from splitveil.defenses.cloak import Cloak
from splitveil.defenses.codec import Codec
from splitveil.defenses.gaussian import Gaussian
from splitveil.defenses.laplace import Laplace
from splitveil.defenses.pca import PCA
from splitveil.defenses.topk import TopK
from splitveil.model import SplitModel

D, K, SIGMA = 8, 3, 0.5


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pca(count: int = K) -> PCA:
    part = PCA(count)
    part.basis = torch.linalg.qr(torch.randn(D, count, generator=rng(7)))[0]
    part.mean = torch.randn(D, generator=rng(8))
    return part


def channel(*parts: Defense, images: int = 4000) -> Channel:
    """Gaussian features of deviations 1 to 8."""
    z = torch.randn(images, D, generator=rng(1)) * torch.arange(1, D + 1)
    numbers = torch.arange(images)
    pixels = torch.zeros(images, 3, 4, 4, dtype=torch.uint8)
    pixels.view(images, -1)[:, :3] = torch.stack([numbers // 65536, numbers // 256 % 256, numbers % 256], 1)
    model = SplitModel(Rows(z), nn.Identity(), defense=list(parts)).eval()
    return Channel.of(model, Split(pixels, torch.zeros(images, dtype=torch.long)), rng())


def test_the_leakage_is_that_of_the_directions_in_closed_form():
    part = pca()
    assert part.basis is not None
    found = GaussianChannel().estimate(channel(Gaussian(SIGMA), part), rng())[0]
    spread = torch.diag(torch.arange(1.0, D + 1) ** 2)
    exact = 0.5 * torch.logdet(torch.eye(K) + part.basis.T @ spread @ part.basis / SIGMA**2)
    assert found.value == pytest.approx(float(exact), rel=0.02)


def test_the_numbers_have_noise_of_variance_one_that_is_independent():
    part = pca()
    z = torch.randn(D, generator=rng(3)).expand(20_000, D)
    stack = Stack(Gaussian(0.3), Gaussian(0.4), part)
    wire = stack.on_wire(z, rng(4))
    reduced = law_of(stack, wire[:1]).reduced
    assert reduced is not None
    told = stack.gaussian_law(z[:1], torch.zeros(1, D))
    assert told is not None
    torch.testing.assert_close(reduced(wire).mean(0), told[0][0], atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(reduced(wire).T), torch.eye(K), atol=0.05, rtol=0)


def test_the_numbers_are_told_of_the_mean_of_several_wires_too():
    wire = torch.randn(2, D, generator=rng())
    law = law_of(Stack(Gaussian(0.5), pca()), wire)
    assert law.of_several(1).reduced is law.reduced
    again = law.of_several(3).reduced
    assert again is not None
    assert again(wire).shape == (2, K)


@pytest.mark.parametrize(("bits", "kept"), [(8, True), (2, False)])
def test_the_numbers_are_kept_behind_a_codec_that_rounds_little(bits, kept):
    """Without them, white-box attacks weighed entries as if their noise were independent."""
    z, noisy = torch.randn(5000, D, generator=rng(3)), Stack(Gaussian(0.5), pca())
    codec = Codec(cast("Any", f"uint{bits}"))
    codec.set_grid(fit(noisy.on_wire(z, rng(5)), bits))
    stack = Stack(Gaussian(0.5), pca(), codec)
    wire = stack.on_wire(z, rng(4))
    reduced, told = law_of(stack, wire[:1]).reduced, stack.gaussian_law(z, torch.zeros(1, D))
    assert told is not None
    assert (reduced is not None) == kept
    if reduced is not None:
        torch.testing.assert_close(torch.cov((reduced(wire) - told[0]).T), torch.eye(K), atol=0.1, rtol=0)


@pytest.mark.parametrize("parts", [(Laplace(0.1),), (Gaussian(0.1), TopK(0.5)), ()])
def test_other_noise_before_it_is_measured_as_before(parts):
    assert law_of(Stack(*parts, pca()), torch.randn(2, D, generator=rng())).reduced is None


@pytest.mark.parametrize("behind", [Gaussian(0.1), TopK(0.5), Cloak(1)])
def test_what_is_changed_behind_the_numbers_is_refused(behind):
    with pytest.raises(BoundError, match="has no Gaussian density given the image"):
        channel(Gaussian(SIGMA), pca(), behind, images=100).conditional("fit")


def test_noise_behind_a_projection_stays_noise_on_the_wire():
    law = channel(pca(), Gaussian(SIGMA), images=100).conditional("fit")
    assert law.mean.shape[1] == D
    assert float(law.variance.max()) == pytest.approx(SIGMA**2)
    assert math.isfinite(float(law.mean.sum()))
