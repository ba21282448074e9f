"""Two runs side by side by the best attacker that can exist, and by the accuracy of retrained tails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comparison_helpers import attacked, trained, values
from splitveil.results.comparison import compare
from splitveil.results.comparison_rows import Comparison
from splitveil.statistics.intervals import binomial_ci


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    return trained(tmp_path / "a", [1, 1, 0, 0]), trained(tmp_path / "b", [1, 0, 0, 0])


def compared(runs: tuple[Path, Path]) -> Comparison:
    found = compare(*runs)
    assert isinstance(found, Comparison)
    return found


def retrained(run: Path, right: list[int]) -> None:
    """As `splitveil tail` leaves it."""
    summary = json.loads((run / "summary.json").read_text())
    summary["retrained_accuracy"] = binomial_ci(sum(right), len(right)).as_dict()
    (run / "summary.json").write_text(json.dumps(summary))
    rows = [f"{i},0,{0 if hit else 1}" for i, hit in enumerate(right)]
    (run / "test_retrained.csv").write_text("\n".join(["image,label,predicted", *rows]) + "\n")


def test_each_side_has_the_attack_that_was_best_on_held_out_images(runs):
    attacked(runs[0], "linear", values([0.1, 0.4]), {"mse": [0.1, 0.2]})
    attacked(runs[0], "decoder", values([0.3, 0.2]), {"mse": [0.3, 0.2]})  # lower on the second image: nobody knows
    attacked(runs[1], "linear", values([0.5, 0.6]), {"mse": [0.9, 0.9]})
    attacked(runs[1], "decoder", values([0.6, 0.5]), {"mse": [0.3, 0.3]})
    found = compared(runs)
    rows = {(row.what, row.metric): row for row in found.rows}
    best, worst = rows["best attacker", "mse"], rows["worst case", "mse"]
    assert (best.a.mean, best.b.mean) == pytest.approx((0.25, 0.55))
    assert best.difference.mean == pytest.approx(0.3)
    assert best.paired
    assert (worst.a.mean, worst.b.mean) == pytest.approx((0.15, 0.5))
    assert ("best attacker", "ssim") in rows
    assert "best attacker: linear on A, decoder on B" in found.notes


def test_the_choice_per_image_is_made_by_what_the_attacker_sees(runs):
    """Where the distance on the wire tells the better attack, image by image."""
    low, high = [0.1, 0.4] * 4, [0.4, 0.1] * 4
    for run in runs:
        for label, error in (("linear", low), ("decoder", high)):
            attacked(run, label, values(error[:2], wire_distance=error[:2]), {"mse": error, "wire_distance": error})
    found = compared(runs)
    assert "best attacker: choice per image on A, choice per image on B" in found.notes
    row = next(row for row in found.rows if (row.what, row.metric) == ("best attacker", "mse"))
    assert row.a.mean == pytest.approx(0.1)


def test_attacks_that_were_not_judged_leave_the_worst_case(runs):
    for run in runs:
        attacked(run, "linear", values([0.1, 0.4]), {"mse": [0.1, 0.2]})
        attacked(run, "decoder", values([0.3, 0.2]), {"mse": [0.1, 0.2]} if run == runs[0] else None)
    found = compared(runs)
    assert {row.what for row in found.rows} == {"network", "linear", "decoder", "worst case"}
    assert f"not all attacks on {runs[1]} were judged on held-out images; run them again" in "\n".join(found.notes)


def test_one_attack_is_the_best_attacker_and_that_is_said(runs):
    for run in runs:
        attacked(run, "linear", values([0.1, 0.4]))
    found = compared(runs)
    assert {row.what for row in found.rows} == {"network", "linear"}
    assert found.notes == ("best attacker: linear, the only attack that both have",)


def test_the_accuracy_of_retrained_tails_is_compared_in_pairs(runs):
    for run in runs:
        attacked(run, "linear", values([0.1, 0.4]))
    retrained(runs[0], [1, 1, 1, 1])
    found = compared(runs)
    assert "retrained_accuracy" not in {row.metric for row in found.rows}
    assert f"that of {runs[1]} was not measured (splitveil tail {runs[1]})" in found.notes[0]
    retrained(runs[1], [1, 1, 0, 0])
    row = next(row for row in compared(runs).rows if row.metric == "retrained_accuracy")
    assert row.paired
    assert row.difference.mean == pytest.approx(-0.5)
    assert row.verdict == "no difference shown in these two trainings"
