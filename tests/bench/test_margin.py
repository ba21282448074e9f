"""The loss of accuracy that is to be excluded: named with the grid before results are seen, and kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from report_helpers import add, bench, cell
from splitveil.bench.cells import Grid
from splitveil.bench.driver import describe, run_grid
from splitveil.bench.grid import load_grid
from splitveil.errors import UserError
from splitveil.report.bench import build

CELL = cell("gaussian:0.1")
GRID = Grid("small", "", (CELL,), 0.5)
KNOWN = {"mean": 0.5, "ci95": [0.4, 0.6]}


def grid_file(folder: Path, **more: object) -> Path:
    path = folder / "g.yaml"
    path.write_text(yaml.safe_dump({"base": {"data": "digits", "cut": 4}, **more}))
    return path


def test_a_grid_names_it_and_the_command_over_it(tmp_path):
    assert load_grid(grid_file(tmp_path)).margin == 1
    assert load_grid(grid_file(tmp_path, margin=0.5)).margin == 0.5
    assert load_grid(grid_file(tmp_path, margin=0.5), margin=2).margin == 2


@pytest.mark.parametrize("bad", [0, -1, 100, "1", True, [1], float("nan")])
def test_what_is_no_margin_is_refused(tmp_path, bad):
    with pytest.raises(
        UserError, match=r"^margin is .*; expected points of accuracy, above 0 and below 100, such as 1$"
    ):
        load_grid(grid_file(tmp_path, margin=bad))


def test_it_cannot_be_changed_once_a_cell_is_done(tmp_path):
    describe(GRID, tmp_path)
    run_grid_again = replace(GRID, margin=2.0)
    add(tmp_path, CELL, 0.5, 0.01, retrained_accuracy=KNOWN)
    assert run_grid(GRID, tmp_path).done.keys() == {CELL.id}
    with pytest.raises(
        UserError, match=r"the margin of small was 0\.5 when its first cells were trained, now 2; it is"
    ):
        run_grid(run_grid_again, tmp_path)
    assert json.loads((tmp_path / "grids" / "small.json").read_text())["margin"] == 0.5


def test_a_cell_without_a_retrained_tail_is_not_done(tmp_path):
    from splitveil.bench.folder import finished

    add(tmp_path, CELL, 0.5, 0.01)
    assert finished(CELL, tmp_path) is None
    add(tmp_path / "other", CELL, 0.5, 0.01, retrained_accuracy=KNOWN)
    assert finished(CELL, tmp_path / "other") is not None


def test_the_page_says_whether_it_was_named(tmp_path):
    bench(tmp_path)
    assert "1 point, the default: none was named beforehand" in build(tmp_path).read_text()
    describe(replace(GRID, margin=0.5), tmp_path)
    text = build(tmp_path).read_text()
    assert "0.5 points, named before the first cell was done" in text
    assert "a loss of 0.5 points of accuracy is" in text
