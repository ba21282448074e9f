"""Metrics against scikit-image and closed forms; intervals against normal theory and their own coverage."""

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
from splitveil.statistics.intervals import Interval, binomial_ci, bootstrap_ci, paired_difference


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


def test_bootstrap_agrees_with_normal_theory():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    interval = bootstrap_ci(values, torch.Generator().manual_seed(1), resamples=4000)
    half = 1.959964 * values.std(correction=0).item() / math.sqrt(4000)
    assert interval.mean == pytest.approx(values.mean().item())
    assert interval.hi - interval.mean == pytest.approx(half, rel=0.08)
    assert interval.mean - interval.lo == pytest.approx(half, rel=0.08)


def test_bootstrap_covers_the_true_mean_as_often_as_it_says():
    rng = torch.Generator().manual_seed(2)
    held = 0
    for _ in range(400):
        interval = bootstrap_ci(torch.rand(60, generator=rng), rng, level=0.9, resamples=300)
        held += interval.lo <= 0.5 <= interval.hi
    assert 0.84 < held / 400 < 0.94  # 0.9 less about 0.01 for n = 60; four standard errors are 0.06


def test_bootstrap_repeats_and_its_memory_is_bounded(monkeypatch):
    values = torch.arange(100.0)
    once = bootstrap_ci(values)
    assert once == bootstrap_ci(values.numpy()) == bootstrap_ci(values.tolist())
    assert once != bootstrap_ci(values, torch.Generator().manual_seed(5))
    monkeypatch.setattr(metrics, "ELEMENTS_AT_ONCE", 1000)  # 10 resamples at a time
    rows = []
    randint = torch.randint
    monkeypatch.setattr(torch, "randint", lambda high, size, **kw: rows.append(size[0]) or randint(high, size, **kw))
    bootstrap_ci(values, resamples=25)
    assert rows == [10, 10, 5]


def test_paired_difference_cancels_the_spread_of_the_images():
    rng = torch.Generator().manual_seed(3)
    hard = torch.rand(200, generator=rng)
    noise = 0.01 * torch.randn(200, generator=rng)
    interval = paired_difference(hard + 0.05 + noise, hard, rng)
    assert interval.lo < 0.05 < interval.hi
    assert interval.hi - interval.lo < 0.1 * (bootstrap_ci(hard, rng).hi - bootstrap_ci(hard, rng).lo)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), n=st.integers(1, 5000))
def test_wilson_bounds_solve_the_score_equation(data, n):
    correct = data.draw(st.integers(0, n))
    interval = binomial_ci(correct, n)
    share = correct / n
    assert 0 <= interval.lo <= share <= interval.hi <= 1
    for bound in (interval.lo, interval.hi):
        if bound not in (0.0, 1.0):
            assert (share - bound) ** 2 == pytest.approx(1.959964**2 * bound * (1 - bound) / n, rel=1e-4, abs=1e-12)


def test_wilson_at_the_borders_is_not_empty():
    assert binomial_ci(0, 50).lo == 0
    assert binomial_ci(0, 50).hi == pytest.approx(0.07135, abs=1e-4)
    assert binomial_ci(50, 50).lo == pytest.approx(1 - 0.07135, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_ci([1.0]), r"shape \(1,\); expected \(n,\), n at least 2"),
        (lambda: bootstrap_ci(torch.zeros(2, 2)), r"shape \(2, 2\)"),
        (lambda: bootstrap_ci([1.0, math.inf, math.nan]), "2 of 3 values that are NaN or infinite"),
        (lambda: bootstrap_ci([1.0, 2.0], level=95), "level=95; expected a share between 0 and 1"),
        (lambda: bootstrap_ci([1.0, 2.0], resamples=0), "resamples=0"),
        (
            lambda: paired_difference([1.0, 2.0], [1.0]),
            r"\(2,\) and \(1,\) values; expected both from the same images",
        ),
        (lambda: binomial_ci(5, 4), "5 correct of 4"),
        (lambda: binomial_ci(0, 0), "0 correct of 0"),
    ],
)
def test_bad_samples_are_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_an_interval_prints_two_digits_of_its_width():
    assert str(Interval(0.91234, 0.90121, 0.92311)) == "0.912 [0.901, 0.923]"
    assert str(Interval(18.3651, 18.1, 18.6)) == "18.37 [18.10, 18.60]"
    assert str(Interval(1.0, 1.0, 1.0)) == "1 [1, 1]"
    assert str(Interval(0.3, 0.3 - 5e-17, 0.3 + 5e-17)) == "0.3 [0.3, 0.3]"
    assert Interval(0.5, 0.4, 0.6, level=0.9).as_dict() == {"mean": 0.5, "ci90": [0.4, 0.6]}
