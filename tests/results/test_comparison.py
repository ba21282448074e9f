"""Two runs side by side: figures by hand, pairing only where it is allowed, and what is said where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from comparison_helpers import ONLY, attacked, notes, refused, rows, shown, trained, values
from splitveil.cli import main
from splitveil.cli._shared import out_console
from splitveil.config import Spec
from splitveil.evaluation import evaluate
from splitveil.results.comparison import compare
from splitveil.results.comparison_rows import Comparison, Row
from splitveil.runs import Run
from splitveil.statistics import intervals
from splitveil.statistics.intervals import Interval, binomial_ci
from training_helpers import IMAGES, fit

FACTOR = 12.706205 / 1.959964 * 2**0.5
"""By which the ends of an interval of two images are moved from the mean."""


@pytest.fixture
def runs(tmp_path) -> tuple[Path, Path]:
    return trained(tmp_path / "a", [1, 1, 0, 0]), trained(tmp_path / "b", [1, 0, 0, 0])


# Figures


def test_differences_by_hand(runs):
    """Two images whose errors rise by 0.1 and 0.3: of four equal resamples one is all 0.1, one 0.3.

    Two values say next to nothing: the ends are 12.71 / 1.96 · √2 times as far from the mean.
    """
    attacked(runs[0], "decoder", values([0.1, 0.2], ssim=[0.5, 0.9]))
    attacked(runs[1], "decoder", values([0.2, 0.5], ssim=[0.5, 0.9]))
    found = rows(*runs)
    mse = found["decoder", "mse"]
    assert (mse.a.mean, mse.b.mean) == pytest.approx((0.15, 0.35))
    difference = mse.difference
    assert (difference.mean, difference.lo, difference.hi) == pytest.approx(
        (0.2, 0.2 - 0.1 * FACTOR, 0.2 + 0.1 * FACTOR)
    )
    assert (mse.paired, mse.seeds) == (True, 1)
    assert found["decoder", "ssim"].difference == Interval(0, 0, 0)
    assert found["decoder", "ssim"].verdict == "no difference shown in these two trainings"


def test_pairing_cancels_the_images_own_spread(runs):
    rng = torch.Generator().manual_seed(0)
    hard, change = torch.rand(400, generator=rng), 0.01 + 0.02 * torch.randn(400, generator=rng)
    attacked(runs[0], "decoder", values(hard.tolist()))
    attacked(runs[1], "decoder", values((hard + change).tolist()))
    difference = rows(*runs)["decoder", "mse"].difference
    half = 1.959964 * float(change.std()) / 20
    assert difference.mean == pytest.approx(float(change.mean()), abs=1e-6)
    assert difference.hi - difference.mean == pytest.approx(half, rel=0.1)
    assert difference.mean - difference.lo == pytest.approx(half, rel=0.1)
    paired = intervals.paired_difference(hard + change, hard)
    assert (difference.lo, difference.hi) == pytest.approx((paired.lo, paired.hi), abs=half / 10)
    reversed_ = rows(runs[1], runs[0])["decoder", "mse"]
    assert reversed_.difference.mean == pytest.approx(-difference.mean)
    assert reversed_.verdict == "differs in these two trainings"


def test_the_worst_case_is_taken_image_by_image_on_each_side(runs):
    attacked(runs[0], "linear", values([0.1, 0.4], ssim=[0.3, 0.8], psnr=[1.0, 2.0]))
    attacked(runs[0], "decoder", values([0.3, 0.2], ssim=[0.6, 0.2], psnr=[3.0, 1.0]))
    attacked(runs[1], "linear", values([0.5, 0.6], ssim=[0.1, 0.1], psnr=[1.0, 1.0]))
    attacked(runs[1], "decoder", values([0.6, 0.5], ssim=[0.4, 0.5], psnr=[0.0, 9.0]))
    attacked(runs[1], "gan", values([0.0, 0.0]))  # only on one side
    found = rows(*runs)
    assert ("gan", "mse") not in found
    worst = {metric: found["worst case", metric] for metric in ("mse", "ssim", "psnr")}
    assert [worst["mse"].a.mean, worst["mse"].b.mean] == pytest.approx([0.15, 0.5])  # of 0.1, 0.2 and of 0.5, 0.5
    difference = worst["mse"].difference
    assert (difference.mean, difference.lo, difference.hi) == pytest.approx(
        (0.35, 0.35 - 0.05 * FACTOR, 0.35 + 0.05 * FACTOR)
    )
    assert [worst["ssim"].a.mean, worst["ssim"].b.mean] == pytest.approx([0.7, 0.45])  # of 0.6, 0.8 and of 0.4, 0.5
    assert [worst["psnr"].a.mean, worst["psnr"].b.mean] == pytest.approx([2.5, 5.0])
    assert worst["psnr"].verdict == "no difference shown in these two trainings"  # −2 and 7 dB


@pytest.mark.parametrize(
    ("metric", "up", "down"),
    [
        ("mse", "higher: more private", "lower: less private"),
        ("lpips", "higher: more private", "lower: less private"),
        ("ssim", "higher: less private", "lower: more private"),
        ("ssim_zero", "higher: less private", "lower: more private"),
        ("psnr", "higher: less private", "lower: more private"),
        ("reidentified", "higher: less private", "lower: more private"),
        ("accuracy", "higher: more accurate", "lower: less accurate"),
    ],
)
def test_verdicts(metric, up, down):
    none, seeds = Interval(0, 0, 0), 4
    assert Row("", metric, none, none, Interval(0.2, 0.1, 0.3), True, seeds).verdict == up
    assert Row("", metric, none, none, Interval(-0.2, -0.3, -0.1), True, seeds).verdict == down
    for doubtful in (Interval(0.2, -0.1, 0.5), Interval(0.2, -1e-9, 0.5), Interval(-0.2, -0.5, 1e-9)):
        if metric != "accuracy":
            assert Row("", metric, none, none, doubtful, True, seeds).verdict == "no difference shown"
        for few, these in ((1, "two"), (2, "four")):
            said = Row("", metric, none, none, doubtful, True, few).verdict
            assert said == f"no difference shown in these {these} trainings"
            said = Row("", metric, none, none, Interval(0.2, 0.1, 0.3), True, few).verdict
            assert said == f"differs in these {these} trainings"


@pytest.mark.parametrize(
    ("points", "margin", "said"),
    [
        ((0.1, -0.5, 0.7), 1, "a loss of 1 point is excluded"),
        ((0.1, -0.5, 0.7), 0.4, "a loss of 0.4 points is not excluded"),
        ((0.1, -0.5, 0.7), 0.5, "a loss of 0.5 points is not excluded"),  # the margin itself is not
        ((-0.5, -0.8, -0.2), 1, "lower: less accurate, by less than 1 point"),
        ((-0.5, -0.8, -0.2), 0.7, "lower: less accurate"),
        ((2, 1, 3), 1, "higher: more accurate"),
    ],
)
def test_an_accuracy_is_kept_only_within_a_margin(points, margin, said):
    found = Interval(*(value / 100 for value in points))
    assert Row("network", "accuracy", found, found, found, True, 5, margin=margin).verdict == said


# What may be compared


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"attack": {"decoder": {"epochs": 20}}}, "decoder: other settings (epochs 50 and 20); make one attack with"),
        ({"attack": {"gan": {}}}, "other settings (decoder and gan)"),
        ({"protocol": "inference_time"}, "protocol: train_time and inference_time"),
        ({"observed": 4}, "wires observed: 1 and 4"),
        ({"images": {"attacker": 50, "attacked": 2}}, "images to learn from: 90 and 50"),
        ({"budget": {"steps": 100, "seconds": None}}, "budget in steps: none and 100"),
        ({"images_digest": "d2"}, "decoder: other images were attacked"),
        ({"images_digest": None}, "/b; run the attack again"),
    ],
)
def test_attacks_that_are_not_the_same_are_refused(runs, changes, expected):
    attacked(runs[0], "decoder", values([0.1, 0.2]))
    attacked(runs[1], "decoder", values([0.1, 0.2]), **changes)
    assert expected in refused(*runs)
    for run in runs:
        attacked(run, "linear", values([0.1, 0.2]))
    assert {what for what, _ in rows(*runs)} == {"network", "linear"}
    assert "decoder left out: " in notes(*runs)


def test_neither_says_which_images_were_attacked(runs):
    for run in runs:
        for label in ("decoder", "linear"):
            attacked(run, label, values([0.1, 0.2]), images_digest=None)
    expected = f"decoder, linear: it is not known which images were attacked on {runs[0]} and {runs[1]}; run the attack"
    assert expected in refused(*runs)


def test_other_seeds_attack_other_images(tmp_path):
    a, b = trained(tmp_path / "a", (1, 2)), trained(tmp_path / "b", (1, 2), seed=7)
    attacked(a, "decoder", values([0.1, 0.2]))
    attacked(b, "decoder", values([0.1, 0.2]), images_digest="d2")
    assert "depends on the run's seed (0 and 7): --protocol train_time without --attacked" in refused(a, b)


def test_other_numbers_of_training_images_attack_other_images(tmp_path):
    a, b = trained(tmp_path / "a", (1, 2)), trained(tmp_path / "b", (1, 2), train_size=500)
    attacked(a, "decoder", values([0.1, 0.2]))
    attacked(b, "decoder", values([0.1, 0.2]), images_digest="d2")
    assert "depends on the run's number of training images (all and 500): --protocol train_time" in refused(a, b)


def test_attacks_by_code_of_other_versions_are_not_compared(runs):
    """What a later revision of an attack found is not held against an earlier one's, nor against one without any."""
    attacked(runs[0], "decoder", values([0.1, 0.2]), revision=[2, 1])
    for earlier in ([1, 1], None):
        attacked(runs[1], "decoder", values([0.1, 0.2]), revision=earlier)
        expected = f"decoder: the attack on {runs[1]} was made by an earlier version of its code; run it again"
        assert expected in refused(*runs)
    attacked(runs[1], "decoder", values([0.1, 0.2]), revision=[2, 1])
    assert "earlier version" not in notes(*runs)


def test_runs_that_cannot_be_compared(runs, tmp_path):
    a, b = runs
    assert f"{a} has no finished attack; make one: splitveil attack {a} --attack decoder" in refused(a, b)
    attacked(a, "decoder", values([0.1, 0.2]))
    make = f"splitveil attack {b} --attack decoder:50"
    assert f"{b} has no finished attack; make one: {make}" in refused(a, b)
    attacked(b, "linear", values([0.1, 0.2]))
    assert f"{a} (decoder) and {b} (linear) share no attack" in refused(a, b)
    assert "are the same folder; name two" in refused(a, b / ".." / "a")
    assert "is no run" in refused(a, tmp_path / "none")
    (b / "summary.json").unlink()
    assert "is not finished" in refused(a, b)


def test_other_image_sets_are_refused(tmp_path):
    a, b = trained(tmp_path / "a", (1, 2)), trained(tmp_path / "b", (1, 2), data="cifar10")
    assert f"{a} was trained on digits and {b} on cifar10" in refused(a, b)


def test_damaged_files_are_named(runs):
    for run in runs:
        attacked(run, "decoder", values([0.1, 0.2]))
    left = runs[1] / "attacks" / "decoder" / "per_image.csv"
    whole = left.read_text()
    for text in ("", "image,mse\n", whole.replace("0.2", "0.2,7"), whole.replace("0.2", "nan"), whole + "2,0.1"):
        left.write_text(text)
        assert f"{left} is damaged (" in refused(*runs)
    left.write_text(whole + "2,0.1,10,0.5\n")
    assert f"{left} is damaged (it has 3 rows, expected 2); run the attack again" in refused(*runs)
    left.unlink()
    assert f"cannot read {left}: No such file or directory; run the attack again" in refused(*runs)
    left.write_text(whole)
    (runs[1] / "test.csv").write_text("image,label,predicted\n0,1,1\n")
    assert "test.csv is damaged (it has 1 rows, expected" in refused(*runs)
    (runs[1] / "attacks" / "decoder" / "summary.json").write_text("{")
    assert "summary.json is damaged" in refused(*runs)


def test_rows_that_a_spreadsheet_has_sorted_are_paired_by_image(runs):
    for run, errors in zip(runs, ([0.1, 0.3, 0.2], [0.2, 0.5, 0.4]), strict=True):
        attacked(run, "decoder", values(errors), held_out={"mse": errors})
        attacked(run, "linear", values(errors[::-1]), held_out={"mse": errors[::-1]})
    before = rows(*runs)
    for name in ("attacks/decoder/per_image.csv", "attacks/linear/held_out.csv", "test.csv"):
        file = runs[1] / name
        head, *lines = file.read_text().splitlines()
        file.write_text("\n".join([head, *sorted(lines, key=lambda line: line.partition(",")[2])[::-1]]) + "\n")
        assert file.read_text().splitlines()[1:] != lines
    assert rows(*runs) == before


@pytest.mark.parametrize("image", ["0", "7", "-1", "0.5"])
def test_rows_that_are_not_one_of_each_image_are_damage(image, runs):
    for run in runs:
        attacked(run, "decoder", values([0.1, 0.2]))
    file = runs[1] / "attacks" / "decoder" / "per_image.csv"
    whole = file.read_text()
    file.write_text(whole.replace("\n1,", f"\n{image},"))
    assert f"{file} is damaged (its column image does not hold each of 0 to 1 once)" in refused(*runs)
    file.write_text(whole.replace("image,", "number,"))
    assert f"{file} is damaged (it has no column image)" in refused(*runs)


def test_metrics_with_a_tool_are_compared_only_where_the_tool_was_the_same(runs):
    extra = {"lpips": [0.3, 0.4], "reidentified": [1.0, 0.0]}
    for run, judge in zip(runs, ("j1", "j2"), strict=True):
        tools: dict[str, Any] = {"about_lpips": {"sha256": "w1"}, "about_reidentified": {"fingerprint": judge}}
        for label in ("decoder", "linear"):
            attacked(run, label, values([0.1, 0.2], **extra), **tools)
    found = rows(*runs)
    assert ("decoder", "lpips") in found
    assert ("worst case", "lpips") in found
    assert not any(metric == "reidentified" for _, metric in found)
    assert "reidentified left out: it was not measured with the same tool" in notes(*runs)


def test_a_tool_that_neither_summary_names_may_be_any(runs):
    for run in runs:
        attacked(run, "decoder", values([0.1, 0.2], lpips=[0.3, 0.4]))
    assert ("decoder", "lpips") not in rows(*runs)
    assert "lpips left out: it was not measured with the same tool, or the summaries do not say" in notes(*runs)


def test_the_worst_case_of_hits_is_a_share_with_wilsons_interval(runs):
    told: dict[str, Any] = {"about_reidentified": {"fingerprint": "j1"}}
    attacked(runs[0], "decoder", values([0.1] * 4, reidentified=[1.0, 0.0, 0.0, 0.0]), **told)
    attacked(runs[0], "linear", values([0.1] * 4, reidentified=[0.0, 1.0, 0.0, 0.0]), **told)
    for label in ("decoder", "linear"):
        attacked(runs[1], label, values([0.1] * 4, reidentified=[0.0] * 4), **told)
    worst = rows(*runs)["worst case", "reidentified"]
    assert worst.a == binomial_ci(2, 4)
    assert worst.b == binomial_ci(0, 4)
    assert worst.difference.mean == -0.5


def test_flags_of_the_compared_attacks_are_passed_on(runs):
    attacked(runs[0], "decoder", values([0.1, 0.2]), flags=["no better than the mean training image"])
    attacked(runs[1], "decoder", values([0.1, 0.2]))
    attacked(runs[1], "gan", values([0.1, 0.2]), flags=["not compared"])
    found = compare(*runs)
    assert isinstance(found, Comparison)
    assert found.flags == (f"{runs[0]}: decoder: no better than the mean training image",)


def test_runs_as_they_are_really_left(tmp_path, small):
    for name, defense in (("a", ()), ("b", ("gaussian:0.5",))):
        fit(tmp_path / name, epochs=1, defense=defense)
        spec = Spec.model_validate("linear:1")
        evaluate.attack_run(Run.open(tmp_path / name), spec, IMAGES, protocol_name="train_time")
    found = rows(tmp_path / "a", tmp_path / "b")
    assert {metric for _, metric in found} == {"accuracy", "mse", "psnr", "ssim", "ssim_zero"}
    assert all(row.paired for row in found.values())
    label = "linear@train_time"  # the runs' own protocol is another
    assert found[label, "mse"].verdict == "differs in these two trainings"
    assert notes(tmp_path / "a", tmp_path / "b") == ONLY.format(label)


# The command


def test_the_command_prints_a_table_and_writes_json_only_when_asked(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 200)
    attacked(runs[0], "decoder", values([0.1, 0.2] * 20), flags=["watch out"])
    attacked(runs[1], "decoder", values([0.2, 0.5] * 20))
    before = sorted(tmp_path.rglob("*"))
    main(["compare", *map(str, runs)])
    written = capsys.readouterr()
    assert "watch out" in written.err
    assert sorted(tmp_path.rglob("*")) == before
    text = shown(capsys, *runs, "--out", tmp_path / "c.json")
    assert "decoder, 1 seed MSE 0.15 0.35 0.200 [0.170, 0.230] < 0.001 differs" in text
    assert "network, 1 seed accuracy % 50 25 -25 [-66, 32] 1.000 no difference shown" in text
    assert "a verdict needs 3 seeds of each" in text
    assert "worst case" not in text  # of one attack
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["a"], found["b"]) == tuple(map(str, runs))
    row = next(row for row in found["rows"] if (row["what"], row["metric"]) == ("decoder", "mse"))
    assert row["difference"]["mean"] == pytest.approx(0.2)
    assert row["difference"]["ci95"] == pytest.approx([0.17, 0.23])
    assert (row["paired"], row["seeds"], row["verdict"]) == (True, 1, "differs in these two trainings")


def test_the_command_refuses_in_one_line(runs, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", str(runs[0]), str(runs[0])])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("splitveil: ")
    assert error.count("\n") == 1


def test_attacks_on_different_images_have_no_best_one_and_no_worst_case(runs):
    """As after `splitveil attack --attacked 2` and another attack with `--attacked 3`."""
    for count, digest in ((3, "d2"), (2, "d3")):
        for run in runs:
            attacked(run, "decoder", values([0.1, 0.2]))
            attacked(run, "linear", values([0.1, 0.2, 0.3][:count]), images_digest=digest)
        found = compare(*runs)
        assert isinstance(found, Comparison)
        assert {row.what for row in found.rows} == {"network", "decoder", "linear"}
        assert (
            "best attacker and worst case left out: the attacks were made on different images "
            f"(decoder: 2, linear: {count}); make all of them with the same --attacked"
        ) in found.notes


def test_eighty_letters_hold_every_figure_in_one_piece(runs, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 80)
    label = "decoder-unet_normN1C32"
    attacked(runs[0], label, values([0.00123, 0.00234] * 20))
    attacked(runs[1], label, values([0.00245, 0.00501] * 20))
    main(["compare", *map(str, runs)])
    lines = capsys.readouterr().out.splitlines()
    assert f"{label}, 1 seed" in [line.strip() for line in lines]
    for row in compare(*map(str, runs)).rows:  # type: ignore[union-attr]
        figure = str(row.difference.scaled(100 if row.metric == "accuracy" else 1))
        assert any(figure in line for line in lines)
    assert max(map(len, lines)) <= 80
