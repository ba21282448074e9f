"""Several trainings on each side: matched by seed, verdicts from the seeds, and what is refused or said."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from comparison_helpers import attacked, bench, refused, shown, trained, values
from splitveil.cli._shared import out_console
from splitveil.errors import UserError
from splitveil.results.comparison import Cells, compare
from splitveil.results.comparison_rows import Comparison, Row
from splitveil.statistics.evidence import hierarchical, over_seeds

RISE = {0: 0.30, 1: 0.32, 2: 0.31}
"""Of the error of each image, by seed; a little more from image to image."""


def side(root: Path, name: str, rise: dict[int, float], *, digest: str = "d1", **more: object) -> str:
    """Trainings of one configuration, and the pattern that names them."""
    for seed, error in rise.items():
        run = trained(root / f"{name}-{seed}", [1, 1, 0, 0] * 300, seed=seed, **more)  # type: ignore[arg-type]
        images = values([error, error + 0.01], ssim=[0.5, 0.5 + error / 10])
        attacked(run, "decoder", images, images_digest=f"{digest}-{seed}")
    return f"{root}/{name}-*"


@pytest.fixture
def sides(tmp_path) -> tuple[str, str]:
    return side(tmp_path, "a", dict.fromkeys(RISE, 0.1)), side(tmp_path, "b", RISE)


def rows(a: str | Path, b: str | Path, margin: float = 1) -> dict[str, Row]:
    found = compare(a, b, margin)
    assert isinstance(found, Comparison)
    return {row.metric: row for row in found.rows}


def test_a_verdict_comes_from_the_seeds(sides):
    found = rows(*sides)
    mse = found["mse"]
    assert (mse.seeds, mse.verdict) == (3, "higher: more private")
    expected = hierarchical([np.array([rise - 0.1, rise - 0.1]) for rise in RISE.values()])
    assert [mse.difference.mean, mse.difference.lo] == pytest.approx([expected.mean, expected.lo])
    assert mse.b.mean == pytest.approx(over_seeds([rise + 0.005 for rise in RISE.values()]).mean)
    assert found["ssim"].seeds == 3
    accuracy = found["accuracy"]  # equal on each image
    assert accuracy.verdict == "a loss of 1 point is excluded"
    assert rows(sides[1], sides[0])["mse"].verdict == "lower: less private"


def test_few_test_images_that_are_answered_alike_do_not_exclude_a_loss(tmp_path):
    sides = []
    for name, error in (("a", 0.1), ("b", 0.2)):
        for seed in RISE:
            run = trained(tmp_path / f"{name}-{seed}", [1, 1, 0, 0] * 25, seed=seed)
            attacked(run, "decoder", values([error, error + 0.01]), images_digest=f"d1-{seed}")
        sides.append(f"{tmp_path}/{name}-*")
    assert rows(*sides)["accuracy"].verdict == "a loss of 1 point is not excluded"


POSSIBLE = {"mse": (0, math.inf), "psnr": (0, math.inf), "ssim": (-1, 1), "accuracy": (0, 1)}


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_ends_of_few_images_and_of_few_seeds_stay_within_what_is_possible(tmp_path, seeds):
    sides = []
    for name, first in (("a", 0.3), ("b", 0.9)):
        for seed in range(seeds):
            run = trained(tmp_path / f"{name}-{seed}", [seed != 1, 1, 1], seed=seed)
            for label, error in (("decoder", first), ("linear", 2 * first)):
                rest = 10.0**-seed  # other trainings are far away
                images = values([0.001, error * rest], ssim=[0.999 * rest, rest - error], psnr=[30 * rest, 0.5])
                attacked(run, label, images, images_digest=f"d1-{seed}")
        sides.append(f"{tmp_path}/{name}-*")
    found = compare(*sides)
    assert isinstance(found, Comparison)
    touched = set()
    for row in found.rows:
        least, most = POSSIBLE[row.metric]
        for one in (row.a, row.b):
            assert least <= one.lo <= one.mean <= one.hi <= most
            touched |= {row.metric} if one.lo == least or one.hi == most else set()
    assert touched == {"mse", "psnr", "ssim", "accuracy"}  # or the test would see nothing


def test_one_of_each_is_no_verdict(sides):
    assert rows(sides[0].replace("*", "0"), sides[1].replace("*", "0"))["mse"].verdict == (
        "differs in these two trainings"
    )
    assert rows(sides[0].replace("*", "[01]"), sides[1].replace("*", "[01]"))["mse"].seeds == 2


def test_the_margin_is_the_users(tmp_path):
    """Of 400 answers four differ, two each way: Student's half width over three seeds is 4.3 × 0.5 points."""
    sides = []
    for name, start in (("a", 0), ("b", 2)):
        for seed in RISE:
            run = trained(tmp_path / f"{name}-{seed}", [int(start <= i < start + 200) for i in range(400)], seed=seed)
            attacked(run, "decoder", values([0.1, 0.2]))
        sides.append(f"{tmp_path}/{name}-*")
    a, b = sides
    assert rows(a, b)["accuracy"].verdict == "a loss of 1 point is not excluded"
    assert rows(a, b, margin=2)["accuracy"].verdict == "a loss of 2 points is not excluded"
    assert rows(a, b, margin=2.3)["accuracy"].verdict == "a loss of 2.3 points is excluded"
    for margin in (0, -1, 100, float("nan")):
        with pytest.raises(UserError, match="expected points of accuracy, above 0 and below 100"):
            compare(a, b, margin)


def test_shared_images_are_no_more_for_more_seeds(tmp_path):
    """With other images for each seed the interval is narrower by the root of their number, where seeds agree."""
    widths = []
    for name, digest in (("own", "d1-{}"), ("shared", "d1")):
        for which, error in (("a", 0.1), ("b", 0.3)):
            for seed in range(4):
                run = trained(tmp_path / name / f"{which}-{seed}", (1, 2), seed=seed)
                attacked(run, "decoder", values([error, 2 * error, 0.2] * 10), images_digest=digest.format(seed))
        difference = rows(f"{tmp_path / name}/a-*", f"{tmp_path / name}/b-*")["mse"].difference
        widths.append(difference.hi - difference.lo)
    assert widths[1] == pytest.approx(2 * widths[0])


def test_a_seed_without_a_partner_is_left_out(sides, tmp_path):
    side(tmp_path, "b", {7: 0.3})
    found = compare(*sides)
    assert isinstance(found, Comparison)
    assert found.rows[0].seeds == 3
    assert found.notes[0] == f"{tmp_path / 'b-7'} left out: the other side has no training with seed 7"


def test_a_note_of_one_seed_names_it(sides, tmp_path):
    (tmp_path / "b-1" / "test.csv").unlink()
    found = compare(*sides)
    assert isinstance(found, Comparison)
    who, note = found.notes
    assert note.startswith("seed 1: accuracy compared unpaired")
    assert who == "best attacker: decoder, the only attack that both have"
    row = next(row for row in found.rows if row.metric == "accuracy")
    assert (row.seeds, row.paired) == (3, False)


def test_an_attack_that_only_some_seeds_have_says_with_its_seeds(sides, tmp_path):
    for run in ("a-0", "b-0", "a-1"):
        attacked(tmp_path / run, "linear", values([0.2, 0.3]), images_digest=f"d1-{run[-1]}")
    found = compare(*sides)
    assert isinstance(found, Comparison)
    seeds = {(row.what, row.metric): row.seeds for row in found.rows}
    assert (seeds["decoder", "mse"], seeds["linear", "mse"]) == (3, 1)


def test_sides_that_are_no_trainings_of_one_configuration(sides, tmp_path):
    trained(tmp_path / "a-9", (1, 2), seed=9, epochs=77)
    assert f"{tmp_path / 'a-0'} and {tmp_path / 'a-9'} differ in more than the seed (epochs" in refused(*sides)
    a, b = side(tmp_path, "c", {4: 0.1, 5: 0.1}), sides[1]
    assert "the first side has the seeds 4, 5, the second 0, 1, 2: none in common" in refused(a, b)
    side(tmp_path, "twice", {1: 0.1})
    trained(tmp_path / "twice-again", (1, 2), seed=1)
    assert "have the same seed, 1; name one of them" in refused(f"{tmp_path}/twice-*", b)
    assert f"no folder matches {tmp_path}/none-*" in refused(f"{tmp_path}/none-*", b)
    assert "are the same folder; name two" in refused(f"{tmp_path}/b-*", tmp_path / "b-1")
    for seed in RISE:
        (tmp_path / f"b-{seed}" / "attacks" / "decoder" / "summary.json").unlink()
    assert f"{tmp_path / 'b-0'} has no finished attack" in refused(f"{tmp_path}/a-[0-2]", b)


def test_pairs_that_all_cannot_be_compared(tmp_path):
    a, b = side(tmp_path, "a", {0: 0.1, 1: 0.1}), side(tmp_path, "b", {0: 0.3, 1: 0.3}, digest="d2")
    assert "cannot be compared: decoder left out: other images were attacked" in refused(a, b)


def test_names_with_letters_of_a_pattern_are_names_where_they_exist(tmp_path):
    for name, error in (("a[0]", 0.1), ("b*", 0.2)):
        attacked(trained(tmp_path / name, (1, 2)), "decoder", values([error, error]))
    assert rows(tmp_path / "a[0]", tmp_path / "b*")["mse"].difference.mean == pytest.approx(0.1)


def test_the_command_shows_the_seeds_of_every_attack(sides, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 200)
    text = shown(capsys, *sides, "--margin", "2", "--out", tmp_path / "c.json")
    assert "decoder, 3 seeds MSE 0.105 0.315" in text
    assert "higher: more private" in text
    assert "a loss of 2 points is excluded" in text
    assert "over the seeds, and the images within each; p: corrected for 4 rows (Holm)" in text
    assert "a verdict needs" not in text
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["margin_points"] == 2
    assert {row["seeds"] for row in found["rows"]} == {3}
    assert all(0 <= row["p_holm"] <= 1 for row in found["rows"])


def test_one_attack_of_few_seeds_is_enough_to_say_how_many_a_verdict_needs(sides, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 200)
    for name, error in (("a-0", 0.1), ("b-0", 0.4)):
        attacked(tmp_path / name, "nearest", values([error, error + 0.1]), images_digest="d1-0")
    text = shown(capsys, *sides)
    assert "nearest, 1 seed MSE" in text
    assert "decoder, 3 seeds MSE" in text
    assert "a verdict needs 3 seeds of each" in text


# Benches


def test_cells_that_differ_in_the_seed_are_one_configuration(tmp_path):
    a = bench(tmp_path / "a", {f"c1-s{seed}": 0.1 for seed in range(3)} | {"c2": 0.1, "c2-s9": 0.1})
    b = bench(tmp_path / "b", {f"c1-s{seed}": 0.1 + rise for seed, rise in RISE.items()} | {"c2": 0.4})
    found = compare(a, b)
    assert isinstance(found, Cells)
    assert found.seeds == {"c1-s0": 3, "c2": 1}
    assert found.only_a == ("c2-s9",)
    verdicts = {name: cell.rows[1].verdict for name, cell in found.common.items()}
    assert verdicts == {"c1-s0": "higher: more private", "c2": "differs in these two trainings"}
    assert "seed" not in found.axes["c1-s0"]


def test_benches_of_one_configuration_each_are_two_sides(tmp_path):
    a = bench(tmp_path / "a", {f"c1-s{seed}": 0.1 for seed in range(3)})
    b = bench(tmp_path / "b", {f"c2-s{seed}": 0.1 + rise for seed, rise in RISE.items()})
    found = rows(a, b)
    assert (found["mse"].seeds, found["mse"].verdict) == (3, "higher: more private")


def test_the_table_of_configurations_has_their_seeds(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 200)
    a, b = bench(tmp_path / "a", {"c1": 0.1, "c1-s1": 0.1}), bench(tmp_path / "b", {"c1": 0.4, "c1-s1": 0.4})
    text = shown(capsys, a, b)
    assert "sigma 0.1 2 0 [-100, 100] 0.3" in text
    assert "a verdict needs 3 seeds of each" in text
    several = bench(tmp_path / "c", {"c1": 0.4})
    bench(tmp_path / "c2", {"c1": 0.4})
    assert "are 3 benches; compare two" in refused(a, f"{tmp_path}/c*")
    assert "of one seed" not in shown(capsys, a, several)
