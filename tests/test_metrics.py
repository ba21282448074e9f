"""Metrics against scikit-image and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from splitveil import metrics
from splitveil.errors import UserError
from splitveil.metrics import mse, psnr, ssim


def pair(seed: int, shape: tuple[int, ...] = (3, 3, 32, 32), noise: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth image and a noisy copy of it, float64 in [0, 1]."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand((shape[0], shape[1], 4, 4), generator=rng, dtype=torch.float64)
    x = torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bilinear")
    y = (x + noise * torch.randn(shape, generator=rng, dtype=torch.float64)).clamp(0, 1)
    return x, y


@pytest.mark.parametrize("shape", [(3, 3, 32, 32), (2, 1, 11, 11), (2, 3, 24, 37)])
@pytest.mark.parametrize("noise", [0.01, 0.3])
def test_ssim_equals_scikit_image(shape, noise):
    x, y = pair(0, shape, noise)
    expected = [
        structural_similarity(
            a.numpy(), b.numpy(), gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1,
            channel_axis=0,
        )
        for a, b in zip(x, y, strict=True)
    ]  # fmt: skip
    assert ssim(x, y).numpy() == pytest.approx(np.array(expected), abs=1e-9)
    assert ssim(x.float(), y.float()).numpy() == pytest.approx(np.array(expected), abs=1e-5)


def test_psnr_equals_scikit_image():
    x, y = pair(1)
    expected = [peak_signal_noise_ratio(a.numpy(), b.numpy(), data_range=1) for a, b in zip(x, y, strict=True)]
    assert psnr(x, y).numpy() == pytest.approx(np.array(expected), abs=1e-9)


def test_ssim_of_constant_images_is_the_luminance_term():
    x, y = (torch.full((1, 3, 16, 16), value, dtype=torch.float64) for value in (0.2, 0.6))
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert ssim(x, y).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("size", [8, 20])
def test_zero_padding_equals_a_convolution_over_black_borders(size):
    x, y = pair(2, (2, 3, size, size))
    tap = torch.exp(-0.5 * ((torch.arange(11, dtype=torch.float64) - 5) / 1.5) ** 2)
    window = torch.outer(tap, tap)[None, None] / tap.sum() ** 2

    def blur(image):
        return torch.nn.functional.conv2d(image.reshape(-1, 1, size, size), window, padding=5).view_as(image)

    mean_x, mean_y = blur(x), blur(y)
    covariance = blur(x * y) - mean_x * mean_y
    spread = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    score = (2 * mean_x * mean_y + 1e-4) * (2 * covariance + 9e-4)
    score = score / ((mean_x**2 + mean_y**2 + 1e-4) * (spread + 9e-4))
    assert ssim(x, y, padding="zero").numpy() == pytest.approx(score.mean(dim=(1, 2, 3)).numpy(), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), noise=st.floats(0.001, 2.0), padding=st.sampled_from(["valid", "zero"]))
def test_metrics_are_symmetric_bounded_and_exact_on_equal_images(seed, noise, padding):
    x, y = pair(seed, (2, 3, 12, 13), noise)
    assert torch.equal(mse(x, y), mse(y, x))
    assert torch.allclose(ssim(x, y, padding), ssim(y, x, padding), atol=1e-12)
    assert bool(((mse(x, y) > 0) & (mse(x, y) <= 1)).all())
    assert bool((ssim(x, y, padding).abs() < 1).all())
    assert torch.equal(mse(x, x), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(psnr(x, x), torch.full((2,), math.inf, dtype=torch.float64))
    assert torch.allclose(ssim(x, x, padding), torch.ones(2, dtype=torch.float64), atol=1e-9)


def test_every_image_is_scored_on_its_own(monkeypatch):
    x, y = pair(3, (5, 3, 16, 16))
    whole = ssim(x, y)
    monkeypatch.setattr(metrics, "ELEMENTS_AT_ONCE", 2 * x[0].numel())  # chunks of 2, 2 and 1
    assert torch.allclose(ssim(x, y), whole, atol=1e-12)
    assert torch.allclose(ssim(x[3:4], y[3:4]), whole[3:4], atol=1e-12)


def test_ssim_is_differentiable():
    x, y = pair(4, (1, 1, 12, 12))
    y.requires_grad_()
    assert torch.autograd.gradcheck(lambda image: ssim(x, image), (y,))


def test_half_precision_is_computed_in_single():
    x, y = pair(5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        score = ssim(x.bfloat16(), y.bfloat16())
    assert score.dtype == torch.float32
    assert torch.allclose(score.double(), ssim(x, y), atol=0.02)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (
            torch.zeros(1, 3, 16, 16),
            torch.zeros(2, 3, 16, 16),
            r"shapes \(1, 3, 16, 16\) and \(2, 3, 16, 16\)",
        ),
        (
            torch.zeros(3, 16, 16),
            torch.zeros(3, 16, 16),
            r"expected two equal, non-empty shapes \(B, C, H, W\)",
        ),
        (torch.zeros(0, 3, 16, 16), torch.zeros(0, 3, 16, 16), "non-empty"),
        (
            torch.zeros(1, 3, 16, 16).byte(),
            torch.zeros(1, 3, 16, 16).byte(),
            "torch.uint8 images; expected floats",
        ),
        (torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), math.nan), "with NaN"),
        (torch.zeros(1, 3, 16, 16), torch.full((1, 3, 16, 16), 1.5), r"from 1.5 to 1.5; expected \[0, 1\]"),
    ],
)
@pytest.mark.parametrize("metric", [mse, psnr, ssim])
def test_bad_images_are_refused(metric, x, y, message):
    with pytest.raises(UserError, match=message):
        metric(x, y)


def test_ssim_refuses_small_images_and_unknown_padding():
    small = torch.zeros(1, 3, 10, 32)
    with pytest.raises(UserError, match="10 × 32 pixels; its window needs at least 11 × 11"):
        ssim(small, small)
    with pytest.raises(UserError, match="padding 'same'; expected 'valid' or 'zero'"):
        ssim(small, small, padding="same")  # pyright: ignore[reportArgumentType]
