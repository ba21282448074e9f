"""The accuracies of two runs side by side: by hand, from published examples, and in pairs where that is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from comparison_helpers import ONLY, attacked, notes, rows, trained, values
from splitveil.errors import UserError
from splitveil.statistics.intervals import Interval, binomial_ci, paired_hits, unpaired_difference


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    return trained(tmp_path / "a", [1, 1, 0, 0]), trained(tmp_path / "b", [1, 0, 0, 0])


def test_newcombes_example():
    """Newcombe 1998, table II, method 10: 56/70 against 48/80."""
    interval = unpaired_difference(binomial_ci(56, 70), binomial_ci(48, 80))
    assert (interval.mean, interval.lo, interval.hi) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((9, 10), (3, 10), (0.1705, 0.8090)), ((10, 10), (0, 10), (0.6075, 1.0)), ((0, 10), (0, 20), (-0.1611, 0.2775))],
)
def test_newcombes_other_examples(a, b, expected):
    interval = unpaired_difference(binomial_ci(*a), binomial_ci(*b))
    assert (interval.lo, interval.hi) == pytest.approx(expected, abs=6e-5)


def test_of_normal_intervals_the_half_widths_add_in_squares():
    interval = unpaired_difference(Interval(5, 2, 8), Interval(1, -3, 5))
    assert (interval.mean, interval.lo, interval.hi) == pytest.approx((4, -1, 9))
    with pytest.raises(UserError, match=r"levels 0.95 and 0.9; expected the same"):
        unpaired_difference(Interval(0, 0, 0), Interval(0, 0, 0, 0.9))


def test_without_the_answers_the_accuracy_is_compared_unpaired(tmp_path):
    a, b = trained(tmp_path / "a", (48, 80)), trained(tmp_path / "b", (56, 70))
    for run in (a, b):
        attacked(run, "decoder", values([0.1, 0.2]))
    row = rows(a, b)["network", "accuracy"]
    assert (row.difference.mean, row.difference.lo, row.difference.hi) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert (row.paired, row.verdict) == (False, "differs in these two trainings")
    assert "unpaired (Newcombe 1998, from Wilson intervals)" in notes(a, b)
    assert f"{a} did not keep its answers (test.csv)" in notes(a, b)


def test_answers_on_the_same_images_are_compared_in_pairs(tmp_path):
    """A is right on 90 of 100 images, B on 8 fewer of these: the difference is the share of the eight, binomial."""
    a = trained(tmp_path / "a", [1] * 90 + [0] * 10)
    b = trained(tmp_path / "b", [1] * 82 + [0] * 18)
    for run in (a, b):
        attacked(run, "decoder", values([0.1, 0.2]))
    row = rows(a, b)["network", "accuracy"]
    assert row.difference.mean == pytest.approx(-0.08)
    assert row.difference == paired_hits([1] * 82 + [0] * 18, [1] * 90 + [0] * 10)
    assert (row.difference.lo, row.difference.hi) == pytest.approx((-0.1458, -0.0231), abs=5e-5)
    assert row.paired
    assert row.verdict == "differs in these two trainings"
    assert unpaired_difference(row.b, row.a).hi > 0  # which as if of different images could not be shown
    assert notes(a, b) == ONLY.format("decoder")


@pytest.mark.parametrize("both", [[1] * 100, [1] * 80 + [0] * 20])
def test_answers_that_all_agree_do_not_show_that_no_image_is_lost(tmp_path, both):
    runs = [trained(tmp_path / side, both) for side in "ab"]
    judge: dict[str, Any] = {"about_reidentified": {"fingerprint": "j1"}}
    for run in runs:
        attacked(run, "decoder", values([0.1, 0.2], reidentified=[1.0, 0.0]), **judge)
    found = rows(*runs)
    row = found["network", "accuracy"]
    assert row.difference == paired_hits(both, both)
    assert row.difference.lo < -0.02
    assert found["decoder", "reidentified"].difference == paired_hits([1, 0], [1, 0])


def test_answers_on_other_images_are_not_paired(tmp_path):
    a, b = trained(tmp_path / "a", [1, 0, 0]), trained(tmp_path / "b", [1, 1, 0], digest="t2")
    for run in (a, b):
        attacked(run, "decoder", values([0.1, 0.2]))
    assert not rows(a, b)["network", "accuracy"].paired
    assert "the test images are not the same" in notes(a, b)


def test_an_accuracy_that_was_not_measured_is_left_out(runs):
    for run in runs:
        attacked(run, "decoder", values([0.1, 0.2]))
    summary = json.loads((runs[1] / "summary.json").read_text())
    (runs[1] / "summary.json").write_text(json.dumps({**summary, "accuracy": None}))
    assert ("network", "accuracy") not in rows(*runs)
    assert f"accuracy left out: that of {runs[1]} was not measured" in notes(*runs)
