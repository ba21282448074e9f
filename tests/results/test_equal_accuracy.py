"""Defenses of a bench at equal accuracy with noise alone: what is compared with what, and what is said of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from report_helpers import add, cell
from splitveil.evaluation.tail import ANSWERS
from splitveil.report.bench import build
from splitveil.results.equal_accuracy import OUTSIDE, RETRAINED, TRAINED, Equal, equals
from splitveil.results.groups import comparison_groups
from splitveil.results.records import gather

NOISE = {0.025: (0.62, 0.010), 0.1: (0.58, 0.013), 0.4: (0.50, 0.020)}


def answered(out: Path, of, accuracy: float, error: float, *, retrained: float | None = None) -> None:
    """A finished cell that kept its answers to 1000 test images, the same hard ones in every cell."""
    add(out, of, accuracy, error, test_digest="t")
    for name, share in (("test.csv", accuracy), (ANSWERS, retrained)):
        if share is not None:
            rows = [f"{i},0,{int(i >= 1000 * share)}" for i in range(1000)]
            (out / "cells" / of.id / name).write_text("\n".join(["image,label,predicted", *rows]) + "\n")


def noise(out: Path, seeds: int, retrained: float | None = None) -> None:
    for seed in range(seeds):
        for sigma, (accuracy, error) in NOISE.items():
            more = None if retrained is None else accuracy + retrained
            answered(out, cell(f"gaussian:{sigma}", "cem:0", seed=seed), accuracy, error, retrained=more)


def found(out: Path) -> list[Equal]:
    (group,) = comparison_groups(gather(out))
    return equals(out, group)


def test_a_defense_is_compared_where_noise_is_as_accurate(tmp_path):
    noise(tmp_path, 3)
    for seed in range(3):
        answered(tmp_path, cell("gaussian:0.025", "cem:16", seed=seed), 0.58, 0.0156)
    (row,) = found(tmp_path)
    assert (row.seeds, row.measured, row.why) == ((0, 1, 2), TRAINED, "")
    assert row.reference == pytest.approx(0.013, rel=0.02)  # images of three seeds
    assert row.difference is not None
    assert row.difference.mean == pytest.approx(math.log(0.0156 / 0.013), abs=0.01)
    assert row.raw is not None
    assert row.raw.mean == pytest.approx(math.log(0.0156 / 0.010), abs=0.01)
    assert row.difference.lo < row.difference.mean < row.difference.hi


def test_noise_of_zero_is_no_point_of_the_curve(tmp_path):
    """It has no logarithm, and ended the whole report."""
    noise(tmp_path, 3)
    for seed in range(3):
        answered(tmp_path, cell("gaussian:0.0", "cem:0", seed=seed), 0.63, 0.009)
        answered(tmp_path, cell("gaussian:0.025", "cem:16", seed=seed), 0.58, 0.0156)
    (row,) = found(tmp_path)
    assert row.reference == pytest.approx(0.013, rel=0.02)


def test_the_accuracy_of_retrained_tails_counts_where_all_have_it(tmp_path):
    noise(tmp_path, 2, retrained=0.1)
    for seed in range(2):
        answered(tmp_path, cell("gaussian:0.025", "cem:16", seed=seed), 0.51, 0.0156, retrained=0.68)
    (row,) = found(tmp_path)
    assert (row.measured, row.accuracy) == (RETRAINED, pytest.approx(0.68))
    assert row.reference == pytest.approx(0.013, rel=0.02)


@pytest.mark.parametrize("accuracy", [0.45, 0.63])
def test_outside_the_curve_nothing_is_said(tmp_path, accuracy):
    noise(tmp_path, 2)
    for seed in range(2):
        answered(tmp_path, cell("gaussian:0.025", "cem:16", seed=seed), accuracy, 0.03)
    (row,) = found(tmp_path)
    assert (row.difference, row.reference, row.verdict) == (None, None, OUTSIDE)
    assert row.raw is not None


def test_why_there_is_no_difference(tmp_path):
    noise(tmp_path, 1)
    answered(tmp_path, cell("gaussian:0.025", "cem:16", seed=7), 0.58, 0.0156)
    add(tmp_path, cell("gaussian:0.025", "cem:4", seed=0), 0.58, 0.0156, test_digest="t")
    assert {row.configuration.cem: row.why for row in found(tmp_path)} == {
        "cem:4": "not all cells kept their answers to the test images",
        "cem:16": "no seed that the defense and all strengths of noise have on the same images",
    }


def test_two_strengths_are_no_curve(tmp_path):
    for sigma in (0.025, 0.1):
        answered(tmp_path, cell(f"gaussian:{sigma}", "cem:0"), *NOISE[sigma])
    answered(tmp_path, cell("gaussian:0.025", "cem:16"), 0.6, 0.0156)
    assert found(tmp_path) == []


@pytest.mark.parametrize(("seeds", "verdict"), [(2, "differs in these trainings"), (3, "more private")])
def test_a_cause_needs_three_seeds(tmp_path, seeds, verdict):
    noise(tmp_path, seeds)
    for seed in range(seeds):
        answered(tmp_path, cell("gaussian:0.025", "dropout:0.2", seed=seed), 0.58, 30.0)
    (row,) = found(tmp_path)
    assert (row.verdict, row.configuration.family) == (verdict, "dropout")


def test_the_report_has_it_as_a_table_and_in_words(tmp_path):
    noise(tmp_path, 3)
    for seed in range(3):
        answered(tmp_path, cell("gaussian:0.025", "cem:16", seed=seed), 0.58, 0.0156)
        answered(tmp_path, cell("gaussian:0.025", "dropout:0.2", seed=seed), 0.41, 0.0156)
    text = " ".join(build(tmp_path).read_text().split())
    assert "more error is shown in" in text
    assert "of 1 comparisons" in text
    assert "Outside the curve of noise or at its upper end, and not compared: 1 of 2." in text
    assert "outside the curve</td>" in text
    lines = (tmp_path / "tables" / "equal_accuracy.csv").read_text().splitlines()
    assert len(lines) == 3
    assert lines[0].split(",")[:5] == ["arena", "setup", "seeds", "accuracy_of", "accuracy"]
    assert r"equal accuracy, MSE \%" in (tmp_path / "tables" / "equal_accuracy.tex").read_text()
