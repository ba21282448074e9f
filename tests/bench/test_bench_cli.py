"""`splitveil bench` as a user meets it."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from forked import Forked
from splitveil.bench import driver, image_sets
from splitveil.bench.cells import Grid
from splitveil.bench.grid import load_grid
from splitveil.bench.lease import Owner
from splitveil.cli import bench as command
from splitveil.cli import main
from splitveil.cli.bench import Board, _say_superseded
from splitveil.progress_bars import Lines
from splitveil.results.record_types import Timings
from splitveil.statistics.intervals import Interval

pytestmark = pytest.mark.usefixtures("quick_weights")

GRID = """
name: tiny
base: {data: digits, train_size: 60, test_size: 60, arch: resnet20_sgm, cut: 2, epochs: 2, batch_size: 16,
  weight_decay: 1.0e+6, warmup_epochs: 0}
grid: {sigma: [0.1, 0.2], lr: [1.0e-6, 1000]}
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
    bad = [cell.id for cell in cells if cell.axes["lr"] == 1000]
    assert len(bad) == 2
    assert [re.search(rf"failed {cell}: UserError: the loss is nan", shown.err) is not None for cell in bad] == [
        True
    ] * 2
    assert [str(out / "logs" / f"{cell}.log") in shown.err for cell in bad] == [True] * 2
    assert f"2 cells done, 2 failed; read them with: splitveil report {out}" in shown.out
    for cell in cells:
        assert cell.id in shown.out
        assert (out / "cells" / cell.id / "record.json").exists() == (cell.id not in bad)
    about = json.loads((out / "grids" / "tiny.json").read_text())
    assert about["cells"][cells[0].id] == {"sigma": 0.1, "lr": 1e-6}
    assert (about["name"], about["command"]) == ("tiny", f"splitveil bench {grid} --out {out}")


def test_a_grid_that_is_done_is_exit_code_0_and_its_table_has_the_figures(grid, tmp_path, small, forked, capsys):
    out = tmp_path / "out"
    grid.write_text(GRID.replace(", 1000", "").replace("[0.1, 0.2]", "[0.1]"))
    main(["bench", str(grid), "--out", str(out)])
    capsys.readouterr()
    main(["bench", str(grid), "--out", str(out)])
    shown = " ".join(capsys.readouterr().out.split())
    record = json.loads(next(out.glob("cells/*/record.json")).read_text())
    assert f" {100 * record['accuracy']['mean']:.1f} [" in shown
    assert f" {record['worst_case']['mse']['mean']:.3g} [" in shown
    assert "1 cells done, 0 failed" in shown


def test_a_grid_of_which_nothing_is_done_has_no_report(grid, tmp_path, small, forked, capsys):
    grid.write_text(GRID.replace("1.0e-6, 1000", "1000").replace("[0.1, 0.2]", "[0.1]"))
    with pytest.raises(SystemExit):
        main(["bench", str(grid), "--out", str(tmp_path / "out"), "--retries", "0"])
    assert capsys.readouterr().out.endswith("0 cells done, 1 failed\n")


def test_markup_in_names_is_text(grid, tmp_path, small, forked, capsys):
    out = tmp_path / "x[" / "y]"
    grid.write_text(GRID.replace("1.0e-6, 1000", "1.0e-6").replace("[0.1, 0.2]", "[0.1]").replace("name: tiny", ""))
    with grid.open("a") as file:
        file.write('name: "[bold]"\ndescription: "noise [/x] only"\n')
    main(["bench", str(grid), "--out", str(out), "--plan"])
    assert "[bold]: noise [/x] only" in " ".join(capsys.readouterr().out.split())
    main(["bench", str(grid), "--out", str(out)])
    shown = capsys.readouterr().out
    assert "[bold]: " in shown
    assert f"splitveil report '{out}'" in shown


GIVEN_UP: Any = SimpleNamespace(error="", log=None)


def record(accuracy: float, error: float) -> Any:
    """What the table shows of a record."""
    shares, errors = (Interval(value, 0.987654 * value, 1.0123456 * value) for value in (accuracy, error))
    attacker = SimpleNamespace(mse=errors)
    timings = Timings(train=1234.5, attacks={"decoder": 99.0}, total=0.0)
    return SimpleNamespace(accuracy=shares, retrained_accuracy=None, attacker=attacker, timings=timings)


@pytest.mark.parametrize("width", [80, 160])
def test_the_table_fits_a_terminal(grid, tmp_path, monkeypatch, width):
    text = GRID.replace("[0.1, 0.2]", "[0.1]") + "include: [{label: some name of four words, lr: 0.1, defense: []}]\n"
    grid.write_text(text)
    loaded = load_grid(str(grid))
    console = Console(file=io.StringIO(), width=width)
    monkeypatch.setattr(command, "out_console", console)
    *done, failed = loaded.cells
    state = driver.State(
        {cell.id: record(0.912345, 0.0212345) for cell in done}, {failed.id: GIVEN_UP}, {}, frozenset(), ()
    )
    console.print(command._table(loaded, tmp_path, state))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    lines = shown.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    for cell in done:
        (line,) = [line for line in lines if line.startswith(f"{cell.id} ")]
        assert "91.2 [90.1, 92.4]" in line
        assert "0.0212 [0.021, 0.0215]" in line
        assert ("1334" in line) == (width == 160)
    assert re.search(rf"^{failed.id} .* failed", shown, re.MULTILINE)
    assert "label=some" in shown or width == 160
    assert "…" not in shown


SUPERSEDED = {
    "quick-v1": "quick-v1 is kept for its earlier figures; quick-v4 attacks better\n",
    "quick-v2": "quick-v2 is kept for its earlier figures; quick-v4 attacks better (quick-v3 has the same attacks)\n",
    "quick-v4": "",
    "smoke-v1": "",
}


@pytest.mark.parametrize(("suite", "said"), SUPERSEDED.items())
def test_a_suite_whose_place_another_has_taken_is_named(grid, capsys, suite, said):
    grid.write_text(re.sub("attacks: .*", f"suite: {suite}", GRID))
    _say_superseded(load_grid(str(grid)))
    assert capsys.readouterr().out == said


def test_a_plan_runs_nothing(grid, tmp_path, capsys):
    grid.write_text(GRID.replace(", 1000", ""))
    main(["bench", str(grid), "--out", str(tmp_path / "out"), "--plan", "--jobs", "2"])
    shown = capsys.readouterr().out
    assert "2 of 2 cells to do" in shown
    heads = shown.partition("───")[0].split()
    assert {"cells", "done", "attacks", "disk", "memory"} <= set(heads)  # none is cut off at 80 columns
    assert not (tmp_path / "out").exists()


def test_a_plan_counts_with_the_jobs_of_its_executor(grid, monkeypatch, capsys):
    monkeypatch.setattr(driver, "room", lambda *_: 5)
    grid.write_text(GRID.replace(", 1000", "").replace("[0.1, 0.2]", f"{[n / 100 for n in range(1, 21)]}"))
    main(["bench", str(grid), "--plan", "--on", "slurm"])
    shown = capsys.readouterr().out
    assert "16 at once" in shown
    assert "note: the steps were timed on this machine; where the cells run they may take more or less time" in shown
    main(["bench", str(grid), "--plan", "--on", "ray"])
    shown = capsys.readouterr().out
    assert "5 at once" in shown
    assert "note: what the Ray cluster has room for is not known before it runs" in shown
    main(["bench", str(grid), "--plan", "--on", "ray", "--jobs", "3"])
    shown = capsys.readouterr().out
    assert "3 at once" in shown
    assert "what the Ray cluster" not in shown


@pytest.mark.parametrize("data", ["folder:/nonexistent", "cifar10"])
def test_images_that_are_not_there_are_bad_input(grid, tmp_path, capsys, data):
    grid.write_text(GRID.replace("digits", data))
    out = tmp_path / "out"
    assert "nonexistent" in refused(capsys, grid, "--out", out, "--root", "/nonexistent")
    assert not out.exists()


def test_attackers_that_want_too_many_images_of_a_folder_are_bad_input(grid, tmp_path, monkeypatch, capsys):
    """Their number is not known before they are loaded."""
    monkeypatch.setattr(image_sets, "PUBLISHED", {})
    grid.write_text(GRID + "attacked: 7\n")
    error = refused(capsys, grid, "--out", tmp_path / "out")
    assert error.startswith(
        "splitveil: cell sigma=0.1, lr=1e-06: attacked is 7, but under protocol inference_time digits"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("more", [[], ["--plan"]])
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--on", "slrm"], "unknown executor 'slrm'; did you mean 'slurm'?"),
        (["--jobs", "0"], "--jobs is 0; expected at least 1"),
        (["--threads", "0"], "--threads is 0; expected at least 1"),
        (["--threads", "-1"], "--threads is -1; expected at least 1"),
        (["--threads", "100000"], "--threads is 100000; this machine has"),
        (["--jobs", "many"], "many"),
        (["--baseline", "nois"], "--baseline is 'nois'; expected noise"),
        (["--address", "auto"], "--address is for --on ray, but it runs on local"),
        (["--on", "slurm", "--gpus-per-cell", "0.5"], "--gpus-per-cell is for --on ray, but it runs on slurm"),
        (["--slurm", "partition=gpu"], "--slurm is for --on slurm, but it runs on local"),
        (["--on", "slurm", "--slurm", "partitoin=gpu"], "did you mean 'partition'?"),
    ],
)
def test_options_that_cannot_be(grid, tmp_path, capsys, tokens, message, more):
    assert message in refused(capsys, grid, "--out", tmp_path / "out", *tokens, *more)
    assert not (tmp_path / "out").exists()


def test_slurm_must_be_there(grid, tmp_path, capsys):
    assert "there is no Slurm here" in refused(capsys, grid, "--out", tmp_path / "out", "--on", "slurm")
    assert not (tmp_path / "out").exists()


def test_the_command_that_is_kept(grid, tmp_path, monkeypatch, capsys):
    def run_grid(loaded: Grid, out: Path, *, command: str, **_: Any) -> driver.State:
        driver.describe(loaded, out, command)
        return driver.State({}, {}, {}, frozenset(), ())

    monkeypatch.setattr(driver, "run_grid", run_grid)
    monkeypatch.setattr(driver, "cores", lambda: 2)
    grid = grid.rename(tmp_path / "my grid.yaml")
    grid.write_text(GRID.replace("name: tiny", "name: a/b"))
    out, root = tmp_path / "out", tmp_path / "images"
    main(["bench", str(grid), "--out", str(out), "--threads", "2", "--root", str(root), "--retries", "1"])
    about = json.loads((out / "grids" / "a%2Fb.json").read_text())
    assert about["command"] == f"splitveil bench '{grid}' --out {out} --root {root} --threads 2"


def test_names_of_grids_are_names_of_files():
    names = ("a/b", "a-b", "a%2Fb", "..", "a:b", "ü" * 200, "ü" * 199 + "u", "x" * 200)
    files = [driver.file_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert max(map(len, files)) < 200
    assert not [file for file in files if "/" in file]


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
    owner = Owner("token", "job")
    with Board(loaded, tmp_path, Console(file=text, force_terminal=True, width=160, color_system=None)) as board:
        board(driver.State({}, {}, {}, frozenset(), loaded.cells))
        own = frozenset({two.id})
        board(driver.State({one.id: GIVEN_UP}, {four.id: GIVEN_UP}, {two.id: owner, three.id: owner}, own, ()))
    shown = text.getvalue()
    assert re.search(r"cells .* 1/4 2 running, 1 failed, 1 of another command, \d.* left\s*$", shown, re.MULTILINE)
    assert re.search(rf"sigma=0\.1 lr=1000 .* 1/3 {two.id}\s*$", shown, re.MULTILINE)
    assert three.id not in shown


def test_the_board_is_quiet_without_a_terminal(grid, tmp_path):
    text = io.StringIO()
    with Board(load_grid(str(grid)), tmp_path, Console(file=text)) as board:
        board(driver.State({}, {}, {}, frozenset(), ()))
    assert text.getvalue() == ""


def test_without_a_terminal_the_board_is_a_line_now_and_then(grid, tmp_path, monkeypatch):
    loaded, text, owner = load_grid(str(grid)), io.StringIO(), Owner("token", "job")
    one, two, *_ = loaded.cells
    with Board(loaded, tmp_path, Console(file=text)) as board:
        running = driver.State({}, {one.id: GIVEN_UP}, {two.id: owner}, frozenset({two.id}), ())
        assert isinstance(board.bars, Lines)
        begun = board.bars._begun
        for seconds in (1, 31, 32, 61, 62):
            monkeypatch.setattr(board.bars, "_clock", lambda now=begun + seconds: now)
            board(running)
    lines = text.getvalue().splitlines()
    assert all(line.startswith("cells: 0 of 4 done, 1 running, 1 failed") for line in lines)
    assert [line.rpartition(", after ")[2] for line in lines] == ["31 s", "1 min 1 s"]
