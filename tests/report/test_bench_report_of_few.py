"""The page of a bench of a few cells: what it says where something is missing, and names that stay text."""

from __future__ import annotations

import json

from report_helpers import Page, add, cell, fail
from splitveil.report import plots
from splitveil.report.bench import build
from splitveil.results import groups, records
from splitveil.results.findings import Findings

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&"


def test_without_a_comparison_the_page_opens_with_the_ends_of_the_front(tmp_path, unplotted):
    add(tmp_path, cell("gaussian:0.1"), 0.6, 0.01)
    (only,) = Findings.read(tmp_path).parts[0].opening
    assert only[0] == "best"
    add(tmp_path, cell("gaussian:0.2"), 0.5, 0.02)
    ends = [(title, one.name) for title, one, _ in Findings.read(tmp_path).parts[0].opening]
    assert ends == [("most accurate", "gaussian:0.1"), ("most private", "gaussian:0.2")]
    page = Page(build(tmp_path).read_text())
    ids = [attributes["id"] for tag, attributes in page.tags if tag == "section"]
    assert ids == ["opening", "tradeoff", "gain", "curves", "leakage", "cells", "how"]
    assert "run the grid with --baseline noise" in page.text
    assert "How to read this page" in page.text


def test_the_page_opens_with_noise_on_the_network_of_the_others(tmp_path):
    add(tmp_path, cell("gaussian:0.1", "cem:0"), 0.7, 0.01)
    add(tmp_path, cell("gaussian:0.1", "cem:16"), 0.6, 0.02)
    add(tmp_path, cell("gaussian:0.2", bottleneck=16), 0.6, 0.02)  # nearest in accuracy, with another wire
    opening = Findings.read(tmp_path).parts[0].opening
    assert {one.others for _, one, _ in opening} == {"bottleneck 8"}
    add(tmp_path, cell("gaussian:0.4"), 0.62, 0.02)
    _, (title, near, _), _ = Findings.read(tmp_path).parts[0].opening
    assert (title, near.name) == ("noise alone, nearest in accuracy", "gaussian:0.4 · bottleneck 8")


def test_a_log_that_is_gone_is_said(tmp_path, unplotted):
    add(tmp_path, cell("gaussian:0.1"), 0.6, 0.01)
    fail(tmp_path, cell("gaussian:0.2"), "killed", "logs/gone.log")
    assert "(the log cannot be read: No such file or directory)" in Page(build(tmp_path).read_text()).text


def test_names_from_files_stay_text(tmp_path, unplotted):
    record = add(tmp_path, cell("gaussian:0.1", "cem:0"), 0.6, 0.01, grid=EVIL)
    add(tmp_path, cell("gaussian:0.1", "cem:16"), 0.6, 0.02, grid=EVIL)
    path = tmp_path / "cells" / record["id"] / "record.json"
    evil = json.loads(path.read_text())
    evil |= {"defense": [EVIL, "cem:0"], "axes": {EVIL: EVIL}, "environment": {"processor": EVIL, "gpu": EVIL}}
    evil["attacks"]["linear"]["flags"] = [EVIL]
    evil["config"]["arch"] = EVIL
    path.write_text(json.dumps(evil))
    fail(tmp_path, cell("gaussian:0.2"), EVIL, EVIL)
    page = Page(build(tmp_path).read_text(encoding="utf-8"))
    assert [tag for tag, _ in page.tags].count("script") == 4
    assert all(str(about["src"]).startswith("data:image/png") for tag, about in page.tags if tag == "img")
    row = next(row for row in page.data("data")["cells"] if row["id"] == record["id"])
    assert EVIL in row["name"]
    assert row["flags"] == [f"linear: {EVIL}"]
    assert "alert(1)" in page.text  # shown, not run


def test_the_report_may_go_elsewhere(tmp_path, unplotted):
    add(tmp_path / "bench", cell("gaussian:0.1"), 0.6, 0.01)
    before = sorted(tmp_path.rglob("*"))
    assert build(tmp_path / "bench", tmp_path / "report") == tmp_path / "report" / "report.html"
    new = set(tmp_path.rglob("*")) - set(before)
    assert all(path.is_relative_to(tmp_path / "report") for path in new)


def test_the_page_says_what_was_typed(tmp_path, unplotted):
    add(tmp_path, cell("gaussian:0.1"), 0.5, 0.01, grid="mine")
    add(tmp_path, cell("gaussian:0.2"), 0.5, 0.01, grid="from Python")
    (tmp_path / "grids").mkdir()
    about = {"name": "mine", "description": "", "cells": {}, "command": "splitveil bench 'my grid.yaml' --out runs/x"}
    (tmp_path / "grids" / "mine.json").write_text(json.dumps(about))
    text = Page(build(tmp_path).read_text(encoding="utf-8")).text
    assert "splitveil bench 'my grid.yaml' --out runs/x\n" in text
    assert "splitveil bench 'from Python' --out DIR\n" in text
    assert f"splitveil report {tmp_path}\n" in text


def test_a_table_without_rows_leaves_no_file(tmp_path, unplotted):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "cem_gain.tex").write_text("of an earlier report")
    add(tmp_path, cell("gaussian:0.1"), 0.5, 0.01)
    build(tmp_path)
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == ["cells.csv", "cells.tex"]


def test_noise_is_a_line_for_each_other_setting(tmp_path):
    for channels in (8, 16):
        for sigma in (0.1, 0.2):
            add(tmp_path, cell(f"gaussian:{sigma}", "cem:0", bottleneck=channels), 0.5, 0.01)
    add(tmp_path, cell("gaussian:0.1", bottleneck=4), 0.5, 0.01)  # one strength is no line
    (group,) = groups.comparison_groups(records.gather(tmp_path))
    found = {name: [one.sigma for one in line] for name, line in plots.noise_lines(group).items()}
    names = [f"more noise, no CEM · bottleneck {channels}" for channels in (16, 8)]
    assert found == {name: [0.1, 0.2] for name in names}


def test_intervals_over_few_seeds_stay_where_values_can_lie(tmp_path):
    for seed, (accuracy, error) in enumerate([(0.95, 0.002), (0.99, 0.02)]):
        add(tmp_path, cell("gaussian:0.1", seed=seed), accuracy, error)
    (one,) = groups.comparison_groups(records.gather(tmp_path))[0].configurations
    assert (one.accuracy.hi, one.mse.lo) == (1, 0)
    assert one.accuracy.lo < 0.9


def test_without_cem_and_without_a_partner_the_page_says_so(tmp_path, unplotted):
    add(tmp_path, cell("gaussian:0.1"), 0.6, 0.01)
    assert "No cell was trained with CEM." in Page(build(tmp_path).read_text()).text
    add(tmp_path, cell("gaussian:0.2", "cem:16"), 0.6, 0.02)
    assert "No cell with CEM has a partner without" in Page(build(tmp_path).read_text()).text


def test_arenas_have_plots_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "FORMATS", ("png",))
    add(tmp_path, cell("gaussian:0.1"), 0.6, 0.01)
    add(tmp_path, cell("gaussian:0.1", data="cifar100"), 0.3, 0.02)
    (tmp_path / "plots").mkdir()
    for name in (
        "tradeoff.png",
        "cem_gain.svg",
        "leakage-x.svg",
        "tradeoff notes.png",
    ):  # of an earlier report, and of somebody
        (tmp_path / "plots" / name).touch()
    page = Page(build(tmp_path).read_text())
    assert not {path.name for path in (tmp_path / "plots").iterdir()} & {"cem_gain.svg", "leakage-x.svg"}
    assert {path.name for path in (tmp_path / "plots").glob("tradeoff*.png")} == {
        "tradeoff-cifar10.png",
        "tradeoff-cifar100.png",
        "tradeoff notes.png",
    }
    assert [attributes["value"] for tag, attributes in page.tags if tag == "option"] == ["0", "1"]


def test_cells_of_earlier_versions_are_shown_without_their_pictures(tmp_path, unplotted):
    for sigma in (0.1, 0.2):
        record = add(tmp_path, cell(f"gaussian:{sigma}"), 0.6, 0.01)
    arrays = tmp_path / "cells" / record["id"] / "attacks" / "decoder" / "reconstructions.npz"
    arrays.unlink()
    page = Page(build(tmp_path).read_text())
    assert record["id"] not in page.data("pictures-data")["cells"]
    assert len(page.data("pictures-data")["cells"]) == 1
    assert "The pictures of 1 cells are left out: there is no reconstructions.npz of" in " ".join(page.text.split())
    arrays.write_bytes(b"no archive")
    lines: list[str] = []
    page = Page(build(tmp_path, note=lines.append).read_text())
    assert len(page.data("pictures-data")["cells"]) == 1
    (line,) = lines
    assert line.startswith(
        f"The pictures of cell {record['id']} are left out: attacks/decoder/reconstructions.npz is dam"
    )
    assert line in page.text
