"""The device's random numbers: their laws, that they come from the system alone, and that nothing repeats."""

from __future__ import annotations

import os

import numpy as np
import pytest
from scipy import stats

from splitveil_edge import noise

COUNT = 200_000
LAWS = {"normal": stats.norm, "uniform": stats.uniform, "exponential": stats.expon}
LEAST = 1e-6  # p value below which a law is doubted: once in a million runs by chance


@pytest.mark.parametrize("kind", LAWS)
def test_the_laws(kind):
    numbers = noise.draw(kind, (COUNT,)).astype(np.float64)
    law = LAWS[kind]
    assert stats.kstest(numbers, law.cdf).pvalue > LEAST
    for power in (1, 2, 3, 4):
        expected, spread = law.moment(power), np.sqrt((law.moment(2 * power) - law.moment(power) ** 2) / COUNT)
        assert abs((numbers**power).mean() - expected) < 5.5 * spread
    beyond = law.isf(1e-4)
    assert stats.binomtest(int((numbers > beyond).sum()), COUNT, 1e-4).pvalue > LEAST
    halves = numbers.reshape(2, -1)  # Box and Muller make the two halves of one radius: their squares are tested, too
    for one, other in ((numbers[:-1], numbers[1:]), halves, halves**2, np.abs(numbers.reshape(-1, 2).T)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5.5 / np.sqrt(len(one))


@pytest.mark.parametrize("high", [1, 2, 3, 10, 255, 2**53])
def test_whole_numbers_are_equally_likely(high):
    numbers = noise.draw("integer", (20_000,), high)
    assert numbers.dtype == np.int64
    assert 0 <= numbers.min() <= numbers.max() < high
    if 1 < high < 2**53:
        assert stats.chisquare(np.bincount(numbers, minlength=high)).pvalue > LEAST
    if high == 2**53:
        assert stats.kstest(numbers / high, stats.uniform.cdf).pvalue > LEAST


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_shapes_and_types(count):
    for kind in LAWS:
        numbers = noise.draw(kind, (count, 3))
        assert (numbers.shape, numbers.dtype) == ((count, 3), np.float32)
    with pytest.raises(ValueError, match="expected one of: normal, uniform, exponential, integer"):
        noise.draw("poisson", (1,))


@pytest.mark.parametrize(
    ("byte", "expected"),
    [
        (0x00, {"normal": np.sqrt(106 * np.log(2)), "uniform": 0.0, "exponential": 0.0, "integer": 0}),
        (0xFF, {"normal": 0.0, "uniform": 1 - 2.0**-24, "exponential": 53 * np.log(2), "integer": 2**53 - 1}),
    ],
)
def test_the_ends_of_the_range_are_finite_and_the_system_is_the_only_source(monkeypatch, byte, expected):
    monkeypatch.setattr(os, "urandom", lambda count: bytes([byte]) * count)
    for kind, value in expected.items():
        numbers = noise.draw(kind, (4,), 2**53 if kind == "integer" else None)
        assert numbers[0] == pytest.approx(value, rel=1e-6)
        assert np.isfinite(numbers).all()
        assert np.array_equal(numbers, noise.draw(kind, (4,), 2**53 if kind == "integer" else None))


def test_box_and_muller_as_written(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**64, 6, np.uint64)
    monkeypatch.setattr(os, "urandom", lambda count: words.tobytes()[:count])
    u, v = (words[:3] // 2**11 + 1) / 2**53, (words[3:] // 2**11) / 2**53
    radius = np.sqrt(-2 * np.log(u))
    expected = np.concatenate([radius * np.cos(2 * np.pi * v), radius * np.sin(2 * np.pi * v)])
    assert np.allclose(noise.normal(6), expected, rtol=1e-6)
    assert np.allclose(noise.normal(5), expected[:5], rtol=1e-6)
