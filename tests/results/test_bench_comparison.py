"""Two benches side by side: every cell as its runs, and from its record where the values per image are gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from comparison_helpers import attacked, bench, refused, shown, trained, values
from splitveil.cli._shared import out_console
from splitveil.config import Spec
from splitveil.results.comparison import Cells, Comparison, compare
from splitveil.results.left_out import Undone
from splitveil.statistics.intervals import Interval, bootstrap_ci, paired_hits, unpaired_difference


def cells(a: Path, b: Path) -> Cells:
    found = compare(a, b)
    assert isinstance(found, Cells)
    return found


def test_benches_are_compared_cell_by_cell(tmp_path):
    a, b = (
        bench(tmp_path / "a", {"c1": 0.1, "c2": 0.2, "c3": 0.3}),
        bench(tmp_path / "b", {"c1": 0.4, "c2": 0.2, "c4": 1}),
    )
    found = cells(a, b)
    assert list(found.common) == ["c1", "c2"]
    assert (found.only_a, found.only_b) == (("c3",), ("c4",))
    assert found.axes["c1"] == {"sigma": 0.1}
    first = {row.metric: row for row in found.common["c1"].rows}
    names = [(row.what, row.metric) for row in found.common["c1"].rows]
    assert names == [("network", "accuracy"), *(("best attacker", metric) for metric in ("mse", "psnr", "ssim"))]
    difference = first["mse"].difference
    assert (difference.mean, difference.lo, difference.hi) == pytest.approx((0.3, 0.3, 0.3))
    assert first["mse"].paired
    assert first["accuracy"].paired
    assert first["accuracy"].difference == paired_hits([1, 0, 0], [1, 0, 0])
    second = {row.metric: row for row in found.common["c2"].rows}
    assert second["mse"].difference == Interval(0, 0, 0)
    assert all(cell.notes == () for cell in found.common.values())


def test_cells_without_values_per_image_are_compared_unpaired(tmp_path):
    a, b = bench(tmp_path / "a", {"c1": 0.1, "c2": 0.1}), bench(tmp_path / "b", {"c1": 0.4, "c2": 0.4})
    (b / "cells" / "c1" / "attacks" / "decoder" / "per_image.csv").unlink()
    found = cells(a, b)
    rows_ = {row.metric: row for row in found.common["c1"].rows}
    expected = unpaired_difference(bootstrap_ci([0.4, 0.5]), bootstrap_ci([0.1, 0.2]))
    assert rows_["mse"].difference == expected
    assert not rows_["mse"].paired
    assert not rows_["accuracy"].paired
    assert "accuracy and attacks compared unpaired" in found.common["c1"].notes[0]
    assert "per_image.csv: No such file" in found.common["c1"].notes[0]
    assert all(row.paired for row in found.common["c2"].rows)


def test_no_error_of_a_side_is_below_0(tmp_path):
    both = {"decoder": {}, "linear": {}}
    a, b = bench(tmp_path / "a", {"c1": 0.01}, attacks=both), bench(tmp_path / "b", {"c1": 0.02}, attacks=both)
    (row,) = [row for row in cells(a, b).common["c1"].rows if row.metric == "mse"]
    assert (row.a.lo, row.b.lo) == (0, 0)


def test_cells_attacked_on_other_images_are_compared_unpaired_but_for_their_accuracy(tmp_path):
    a = bench(tmp_path / "a", {"c1": 0.1})
    b = bench(tmp_path / "b", {"c1": 0.4}, attacks={"decoder": {"images_digest": "d2"}})
    found = cells(a, b).common["c1"]
    assert {row.metric: row.paired for row in found.rows} == {
        "accuracy": True, "mse": False, "psnr": False, "ssim": False,
    }  # fmt: skip
    assert "decoder left out: other images were attacked" in found.notes[-1]


def test_cells_with_other_attacks(tmp_path):
    a = bench(tmp_path / "a", {"c1": 0.1, "c2": 0.2}, attacks={"decoder": {}, "linear": {}})
    b = bench(tmp_path / "b", {"c1": 0.4}, attacks={"decoder": {}})
    found = cells(a, b).common["c1"]
    assert [row.metric for row in found.rows if row.what == "best attacker"] == ["mse", "psnr", "ssim"]
    assert all(row.paired for row in found.rows)
    assert found.notes == ("linear left out: only one has it",)
    c = bench(tmp_path / "c", {"c1": 0.4}, attacks={"gan": {}})
    found = cells(b, c).common["c1"]
    assert [row.metric for row in found.rows] == ["accuracy"]
    assert "attacks left out: other attacks" in found.notes[-1]


def test_an_attack_from_before_a_parameter_is_the_same_as_one_of_today(tmp_path):
    today = Spec.model_validate("decoder:epochs=50").resolve("attacks").model_dump()
    a = bench(tmp_path / "a", {"c1": 0.1}, attacks={"decoder": {"attack": {"decoder": {"epochs": 50}}}})
    b = bench(tmp_path / "b", {"c1": 0.4}, attacks={"decoder": {"attack": today}})
    found = cells(a, b).common["c1"]
    assert found.notes == ()
    assert all(row.paired for row in found.rows)
    (b / "cells" / "c1" / "attacks" / "decoder" / "per_image.csv").unlink()  # then from the records
    assert "mse" in {row.metric for row in cells(a, b).common["c1"].rows}


def test_the_worst_case_stands_for_an_attacker_who_is_not_known(tmp_path):
    """Two attacks that were not judged on held-out images, as earlier versions left them."""
    both = {"decoder": {}, "linear": {}}
    a, b = bench(tmp_path / "a", {"c1": 0.1}, attacks=both), bench(tmp_path / "b", {"c1": 0.4}, attacks=both)
    found = cells(a, b).common["c1"]
    assert {row.what for row in found.rows} == {"network", "worst case"}


def test_benches_that_cannot_be_compared(tmp_path):
    a, b = bench(tmp_path / "a", {"c1": 0.1, "c2": 0.1}), bench(tmp_path / "b", {"c3": 0.1})
    assert "have no cell in common (2 and 1 are finished)" in refused(a, b)
    run = trained(tmp_path / "run", (1, 2))
    assert f"{a} is a bench and {run} is none" in refused(a, run)
    assert f"{a} is a bench and {run} is none" in refused(run, a)
    (tmp_path / "empty" / "cells").mkdir(parents=True)
    assert "has no finished cell" in refused(a, tmp_path / "empty")


def test_the_command_on_benches(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 200)
    a, b = bench(tmp_path / "a", {"c1": 0.1, "c2": 0.1}), bench(tmp_path / "b", {"c1": 0.4, "c3": 0.1})
    (b / "cells" / "c1" / "test.csv").unlink()
    text = shown(capsys, a, b, "--out", tmp_path / "c.json")
    assert "sigma 0.1" in text
    assert "0.3 [0.3, 0.3]" in text
    assert "a higher MSE is more private" in text
    assert "equal" not in text
    assert f"only in {a}: c2" in text
    assert f"only in {b}: c3" in text
    assert "c1: accuracy compared unpaired" in text
    assert "B did not keep its answers (test.csv)" in text
    assert "* as if on different images" in text
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["only_a"], found["only_b"]) == (["c2"], ["c3"])
    assert found["cells"]["c1"]["axes"] == {"sigma": 0.1}


def test_the_margin_is_the_one_that_a_grid_has_named(tmp_path, capsys):
    a, b = bench(tmp_path / "a", {"c1": 0.1}), bench(tmp_path / "b", {"c1": 0.4})
    used = lambda: json.loads((tmp_path / "c.json").read_text())["margin_points"]  # noqa: E731
    shown(capsys, a, b, "--out", tmp_path / "c.json")
    assert used() == 1
    (a / "grids").mkdir()
    about = {"name": "g", "description": "", "command": "", "margin": 0.5, "cells": {}}
    (a / "grids" / "g.json").write_text(json.dumps(about))
    shown(capsys, a, b, "--out", tmp_path / "c.json")
    assert used() == 0.5
    shown(capsys, a, b, "--margin", 2, "--out", tmp_path / "c.json")
    assert used() == 2


def test_cells_that_are_equal_take_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 200)
    a, b = bench(tmp_path / "a", {"c1": 0.1, "c2": 0.1}), bench(tmp_path / "b", {"c1": 0.1, "c2": 0.3})
    text = shown(capsys, a, b)
    assert "1 of 2 configurations are equal" in text
    assert "0.2 [0.2, 0.2]" in text
    same = bench(tmp_path / "c", {"c1": 0.1, "c2": 0.1})
    assert shown(capsys, a, same).strip() == "2 of 2 configurations are equal"


def test_a_thousand_notes_are_not_printed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 200)
    names = {f"c{i:02}": 0.1 for i in range(12)}
    a, b = bench(tmp_path / "a", {**names, **{f"d{i:02}": 0.1 for i in range(12)}}), bench(tmp_path / "b", names)
    for name in names:
        (b / "cells" / name / "attacks" / "decoder" / "per_image.csv").unlink()
    text = shown(capsys, a, b)
    assert "d09 and 2 more" in text
    assert "d10" not in text
    assert "and 2 notes more; --out FILE.json keeps them all" in text


# What is left out


def give_up(out: Path, name: str) -> None:
    """Leave the note of a cell that failed too often."""
    note = {"schema": 1, "id": name, "axes": {}, "config": {}, "error": "x", "log": None, "attempts": 3}
    (out / "failed").mkdir(exist_ok=True)
    (out / "failed" / f"{name}.json").write_text(json.dumps(note))


def plan(out: Path, *names: str) -> None:
    """Leave what a grid of these cells has left."""
    about = {"name": "g", "description": "", "command": "", "margin": None, "cells": {name: {} for name in names}}
    (out / "grids").mkdir()
    (out / "grids" / "g.json").write_text(json.dumps(about))


def test_cells_that_are_left_out_are_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 500)
    a, b = bench(tmp_path / "a", {"c1": 0.1, "c2": 0.1}), bench(tmp_path / "b", {"c1": 0.4})
    later = [f"d{i:02}" for i in range(12)]
    plan(b, "c1", "c2", *later)
    (a / "cells" / "c3").mkdir()  # begun
    give_up(b, "c9")
    give_up(b, "c1")  # and then finished
    found = cells(a, b)
    assert (found.undone_a, found.undone_b) == (Undone(("c3",), ()), Undone(("c2", *later), ("c9",)))
    text = shown(capsys, a, b, "--out", tmp_path / "c.json")
    assert f"left out, finished only in {a}: c2" in text
    assert f"left out, not finished in {a}: c3" in text
    assert f"left out, not finished in {b}: c2, d00, d01, d02, d03, d04, d05, d06, d07, d08 and 3 more" in text
    assert f"left out, given up in {b}: c9" in text
    kept = json.loads((tmp_path / "c.json").read_text())
    assert (kept["unfinished_a"], kept["given_up_a"]) == (["c3"], [])
    assert (kept["unfinished_b"], kept["given_up_b"]) == (["c2", *later], ["c9"])


def test_cells_of_one_configuration_that_are_left_out_are_named(tmp_path):
    a = bench(tmp_path / "a", {"c1-s0": 0.1, "c1-s1": 0.1})
    b = bench(tmp_path / "b", {"c2-s0": 0.3, "c2-s1": 0.3})
    plan(b, "c2-s0", "c2-s1", "c2-s2")
    found = compare(a, b)
    assert isinstance(found, Comparison)
    assert found.notes[-1] == f"left out, not finished in {b}: c2-s2"


def test_benches_whose_common_cells_are_not_finished_say_so(tmp_path):
    a, b = bench(tmp_path / "a", {"c1": 0.1, "c2": 0.1}), bench(tmp_path / "b", {"c3": 0.1})
    plan(b, "c1")
    give_up(b, "c2")
    assert refused(a, b).endswith(f"what the other has finished is not: c1, c2 in {b}; run that grid again")


def test_a_cell_that_reports_leave_out_is_named(tmp_path):
    a, b = bench(tmp_path / "a", {"c1": 0.1, "c1-s1": 0.1}), bench(tmp_path / "b", {"c1": 0.4, "c1-s1": 0.4})
    attacked(b / "cells" / "c1-s1", "decoder", values([0.7, 0.8]))
    (note,) = cells(a, b).common["c1"].notes
    assert note.startswith("B of cell c1-s1 is not what its record says, and reports leave it out: its attack decoder")
