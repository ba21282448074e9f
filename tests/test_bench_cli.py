"""`splitveil bench` as a user meets it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from forked import Forked
from splitveil.bench import driver, lock
from splitveil.bench.grid import load_grid
from splitveil.cli import main
from splitveil.cli.bench import Board

GRID = """
name: tiny
base: {data: digits, train_size: 60, test_size: 60, arch: resnet20_sgm, cut: 2, epochs: 2, batch_size: 16}
grid: {sigma: [0.1, 0.2], lr: [0.05, 1.0e+30]}
zip: {defense: [["gaussian:{sigma}"]]}
attacks: ["nearest:neighbors=1,looks=1"]
"""


@pytest.fixture
def grid(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(GRID)
    return path


@pytest.fixture
def forked(monkeypatch) -> None:
    """Workers are forked instead of started."""
    monkeypatch.setattr(driver, "Local", lambda *_, **__: Forked())


def refused(capsys: Any, *tokens: object) -> str:
    """The one line that a refused command leaves on standard error."""
    with pytest.raises(SystemExit) as stop:
        main(["bench", *map(str, tokens)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("splitveil: ")
    assert error.count("\n") == 1
    return error


def test_a_grid_with_failing_cells_is_exit_code_1_and_names_them(grid, tmp_path, small, forked, capsys):
    out, cells = tmp_path / "out", load_grid(str(grid)).cells
    with pytest.raises(SystemExit) as stop:
        main(["bench", str(grid), "--out", str(out), "--jobs", "2", "--retries", "0"])
    assert stop.value.code == 1
    shown = capsys.readouterr()
    bad = [cell.id for cell in cells if cell.axes["lr"] == 1e30]
    assert len(bad) == 2
    assert [re.search(rf"failed {cell}: UserError: the loss is nan", shown.err) is not None for cell in bad] == [
        True
    ] * 2
    assert [str(out / "logs" / f"{cell}.log") in shown.err for cell in bad] == [True] * 2
    assert "2 cells done, 2 failed" in shown.out
    for cell in cells:
        assert cell.id in shown.out
        assert (out / "cells" / cell.id / "record.json").exists() == (cell.id not in bad)
    about = json.loads((out / "grids" / "tiny.json").read_text())
    assert about["cells"][cells[0].id] == {"sigma": 0.1, "lr": 0.05}


def test_a_grid_that_is_done_is_exit_code_0_and_its_table_has_the_figures(grid, tmp_path, small, forked, capsys):
    out = tmp_path / "out"
    grid.write_text(GRID.replace(", 1.0e+30", "").replace("[0.1, 0.2]", "[0.1]"))
    main(["bench", str(grid), "--out", str(out)])
    capsys.readouterr()
    main(["bench", str(grid), "--out", str(out)])
    shown = " ".join(capsys.readouterr().out.split())
    record = json.loads(next(out.glob("cells/*/record.json")).read_text())
    assert f"{record['accuracy']['mean']:.2%}" in shown
    assert f"{record['worst_case']['mse']['mean']:.4g}" in shown
    assert "1 cells done, 0 failed" in shown


def test_a_plan_runs_nothing(grid, tmp_path, capsys):
    grid.write_text(GRID.replace(", 1.0e+30", ""))
    main(["bench", str(grid), "--out", str(tmp_path / "out"), "--plan", "--jobs", "2"])
    assert "2 of 2 cells to do" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--on", "slrm"], "unknown executor 'slrm'; did you mean 'slurm'?"),
        (["--jobs", "0"], "--jobs is 0; expected at least 1"),
        (["--threads", "0"], "--threads is 0; expected at least 1"),
        (["--jobs", "many"], "many"),
        (["--baseline", "nois"], "--baseline is 'nois'; expected noise"),
        (["--address", "auto"], "--address is for --on ray, but it runs on local"),
        (["--on", "slurm", "--gpus-per-cell", "0.5"], "--gpus-per-cell is for --on ray, but it runs on slurm"),
        (["--slurm", "partition=gpu"], "--slurm is for --on slurm, but it runs on local"),
        (["--on", "slurm"], "there is no Slurm here"),
        (["--on", "slurm", "--slurm", "partitoin=gpu"], "did you mean 'partition'?"),
    ],
)
def test_options_that_cannot_be(grid, tmp_path, capsys, tokens, message):
    assert message in refused(capsys, grid, "--out", tmp_path / "out", *tokens)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_or_is_missing(grid, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused(capsys, grid, "--out", tmp_path / "file")
    assert "give --out FOLDER" in refused(capsys, grid)


def test_a_grid_that_is_none(tmp_path, capsys):
    assert "did you mean 'smoke'?" in refused(capsys, "smok", "--out", tmp_path / "out")


def test_the_board_shows_what_runs_and_what_is_left(grid, tmp_path):
    loaded = load_grid(str(grid))
    one, two, three, four = loaded.cells
    curve = tmp_path / "cells" / two.id / "metrics.jsonl"
    curve.parent.mkdir(parents=True)
    curve.write_text("{}\n")
    text = io.StringIO()
    owner = lock.Owner(lock.Process.here(), "token", "job")
    with Board(loaded, tmp_path, Console(file=text, force_terminal=True, width=160, color_system=None)) as board:
        board(driver.State({}, {}, {}, frozenset(), loaded.cells))
        own = frozenset({two.id})
        board(driver.State({one.id: {}}, {four.id: {}}, {two.id: owner, three.id: owner}, own, ()))
    shown = text.getvalue()
    assert re.search(r"cells .* 1/4 2 running, 1 failed, 1 of another command, \d.* left\s*$", shown, re.MULTILINE)
    assert re.search(rf"sigma=0\.1 lr=1e\+30 .* 1/3 {two.id}\s*$", shown, re.MULTILINE)
    assert three.id not in shown


def test_the_board_is_quiet_without_a_terminal(grid, tmp_path):
    text = io.StringIO()
    with Board(load_grid(str(grid)), tmp_path, Console(file=text)) as board:
        board(driver.State({}, {}, {}, frozenset(), ()))
    assert text.getvalue() == ""
