"""The share of the way from the undefended wire to the ceiling, at its ends and with its interval."""

from __future__ import annotations

import pytest
import torch

from splitveil.errors import UserError
from splitveil.statistics.ceiling import share_interval, share_intervals, share_of_ceiling
from splitveil.statistics.intervals import paired_ratio


def test_it_is_zero_at_the_undefended_wire_and_one_at_the_ceiling():
    assert share_of_ceiling(0.01, 0.01, 0.05) == 0
    assert share_of_ceiling(0.05, 0.01, 0.05) == 1
    assert share_of_ceiling(0.02, 0.01, 0.05) == pytest.approx(0.25)


def test_it_is_not_cut_at_its_ends():
    assert share_of_ceiling(0.005, 0.01, 0.05) == pytest.approx(-0.125)
    assert share_of_ceiling(0.09, 0.01, 0.05) == pytest.approx(2)


@pytest.mark.parametrize(("undefended", "ceiling"), [(None, 0.05), (0.01, None), (0.05, 0.05), (0.06, 0.05)])
def test_there_is_none_where_an_end_is_not_known_or_the_two_are_not_apart(undefended, ceiling):
    assert share_of_ceiling(0.02, undefended, ceiling) is None


def hard(count: int, seed: int = 0) -> torch.Tensor:
    return 0.5 + torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_what_the_images_have_in_common_cancels():
    images = hard(60)
    found = share_interval(0.02 * images, 0.01 * images, 0.05 * images)
    assert found is not None
    assert (found.mean, found.lo, found.hi) == pytest.approx((0.25, 0.25, 0.25))


def test_its_interval_agrees_with_the_delta_method():
    """The variance of a ratio of means: that of (gain − share · room) / mean room."""
    low, high, most = 0.01 * hard(4000, 1), 0.02 * hard(4000, 2), 0.05 * hard(4000, 3)
    found = share_interval(high, low, most)
    assert found is not None
    gained, room = high - low, most - low
    share = gained.mean() / room.mean()
    half = 1.959964 * (gained - share * room).std() / 4000**0.5 / room.mean()
    assert found.mean == pytest.approx(float(share))
    assert found.hi - found.mean == pytest.approx(float(half), rel=0.1)
    assert found.mean - found.lo == pytest.approx(float(half), rel=0.1)


def test_it_is_the_paired_ratio_of_gain_and_room():
    high, low, most = 0.02 * hard(40, 1), 0.01 * hard(40, 2), 0.05 * hard(40, 3)
    found = share_interval(high, low, most)
    assert found is not None
    assert vars(found) == pytest.approx(vars(paired_ratio(high - low, most - low)))


def test_rows_are_those_of_one_at_a_time():
    parts = [
        scale * torch.stack([hard(40, seed), hard(40, seed + 10)]) for seed, scale in enumerate((0.02, 0.01, 0.05))
    ]
    alone = [share_interval(*row) for row in zip(*parts, strict=True)]
    for one, other in zip(share_intervals(*parts), alone, strict=True):
        assert vars(one) == pytest.approx(vars(other))


def test_no_interval_where_the_images_do_not_tell_the_two_apart():
    images = hard(30)
    assert share_interval(images, images + 0.1, images) is None
    assert share_interval(images, images, images + torch.tensor([-1.0, 1.1] * 15)) is None
    assert share_intervals(images[None], images[None], images[None] + 0.1)[0] is not None


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="expected the same images, two or more"):
        share_interval([0.1, 0.2], [0.1], [0.3, 0.4])
    with pytest.raises(UserError, match="expected the same images, two or more"):
        share_interval([0.1], [0.1], [0.3])
    with pytest.raises(UserError, match="NaN or infinite"):
        share_interval([0.1, float("nan")], [0.1, 0.1], [0.3, 0.4])
