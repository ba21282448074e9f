"""The page of a bench in which attacks were made again since the records were written."""

from __future__ import annotations

import csv

from report_helpers import Page, add, again, cell, change
from splitveil.report import bench as page
from splitveil.report.bench import build

WITHOUT, WITH, NOISE = cell("gaussian:0.1", "cem:0"), cell("gaussian:0.1", "cem:16"), cell("gaussian:0.2", "cem:0")


def test_a_cell_that_is_left_out_is_named_and_in_no_table(tmp_path, unplotted):
    for one in (WITHOUT, WITH, NOISE):
        add(tmp_path, one, 0.6, 0.02)
    build(tmp_path)
    assert (tmp_path / "tables" / "cem_gain.csv").exists()
    again(tmp_path, WITHOUT, 0.004)
    text = Page(build(tmp_path).read_text()).text
    line = f"Cell {WITHOUT.id} is left out: its attack decoder was made again and has other errors; run its grid again"
    assert line in text
    assert "1 of 3 cells are not finished yet" in text
    rows = list(csv.DictReader((tmp_path / "tables" / "cells.csv").read_text().splitlines()))
    assert {row["id"] for row in rows} == {WITH.id, NOISE.id}
    assert not (tmp_path / "tables" / "cem_gain.csv").exists()


def test_of_many_cells_that_are_left_out_some_are_named(tmp_path, unplotted, monkeypatch):
    for one in (WITHOUT, WITH, NOISE):
        add(tmp_path, one, 0.6, 0.02)
    for one in (WITH, NOISE):
        change(tmp_path / "cells" / one.id / "attacks" / "linear" / "summary.json", images_digest="others")
    monkeypatch.setattr(page, "FAILURES", 1)
    text = Page(build(tmp_path).read_text()).text
    assert text.count(" is left out: its attack linear") == 1
    assert "Left out like these: 1 more." in text
