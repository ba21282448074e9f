"""The Gaussian mechanism's σ against 60 digits of mpmath."""

import mpmath
import pytest

from splitveil.defenses.local_dp import gaussian_sigma


def exact_delta(sigma, epsilon):
    with mpmath.workdps(60):
        shift, e = 1 / mpmath.mpf(sigma), mpmath.mpf(epsilon)
        near, far = shift / 2 - e / shift, -shift / 2 - e / shift
        # erfc keeps its digits in the tail, where 1 + erf loses them all.
        tail = [mpmath.erfc(-at / mpmath.sqrt(2)) / 2 for at in (near, far)]
        return tail[0] - mpmath.exp(e) * tail[1]


@pytest.mark.parametrize("delta", [1e-15, 1e-10, 1e-5, 1e-2])
@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1, 10, 20, 30, 50, 200, 700, 1000])
def test_sigma_is_the_least_that_keeps_delta(epsilon, delta):
    sigma = gaussian_sigma(1.0, epsilon, delta)
    assert exact_delta(sigma * (1 + 1e-4), epsilon) <= delta
    assert exact_delta(sigma * (1 - 1e-4), epsilon) > delta
