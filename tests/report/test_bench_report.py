"""The page of a bench: whole, self-contained, honest; its plots, tables and pictures."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from PIL import Image

from report_helpers import PLACES, Page, bench, cell, fail
from splitveil.cli import main
from splitveil.report import plots, published_table, thumbnails
from splitveil.report.bench import SECTIONS, build
from splitveil.results import records
from splitveil.results.findings import Findings
from splitveil.results.record_types import Epoch
from splitveil.statistics.intervals import Interval


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> SimpleNamespace:
    """A bench whose report is built once: two seeds, a failed cell, a begun one."""
    folder = bench(tmp_path_factory.mktemp("benches") / "small")
    (folder / "logs").mkdir()
    (folder / "logs" / "x.log").write_text("".join(f"line {n}\n" for n in range(100)) + "it broke\n")
    fail(folder, cell("gaussian:0.3", "cem:16"), "UserError: the loss is nan in epoch 1", "logs/x.log")
    (folder / "cells" / "begun").mkdir()
    path = build(folder)
    html = path.read_text(encoding="utf-8")
    return SimpleNamespace(folder=folder, path=path, html=html, page=Page(html))


def test_everything_is_where_it_is_said_to_be(made):
    there = {str(path.relative_to(made.folder)) for path in made.folder.rglob("*") if path.is_file()}
    wanted = {f"plots/{stem}.{kind}" for stem in plots.STEMS for kind in ("png", "svg")}
    wanted |= {f"tables/{stem}.{kind}" for stem in ("cells", "cem_gain", "paper") for kind in ("csv", "tex")}
    assert wanted | {"report.html"} <= there
    assert not any(name.endswith(".sqlite") for name in there)
    with Image.open(made.folder / "plots" / "tradeoff.png") as picture:
        assert picture.width > 1000
    assert (made.folder / "plots" / "tradeoff.svg").read_text().count("<svg") == 1


@pytest.mark.parametrize("width", [0.006, 0.0123, 4e-5, 0.5])
def test_numbers_below_the_gain_of_cem_do_not_overlap(made, width):
    (part,) = Findings.read(made.folder).parts
    change = Interval(width / 3, -width, width)
    long = [replace(effect, mse=change, accuracy=change) for effect in part.effects]
    figure = plots._effects(long)
    figure.axes[0].set_yticklabels(
        [f"gaussian:0.025, adversarial:0.3 and more {n}" for n in range(len(figure.axes[0].get_yticks()))]
    )
    figure.savefig(io.BytesIO())
    for axis in figure.axes:
        boxes = [label.get_window_extent() for label in axis.get_xticklabels() if label.get_text()]
        inside = sorted((box.x0, box.x1) for box in boxes if axis.bbox.x0 <= (box.x0 + box.x1) / 2 <= axis.bbox.x1)
        assert all(left[1] + 3 < right[0] for left, right in pairwise(inside))


def test_the_page_loads_nothing(made):
    outside = ("http:", "https:", "//")
    for tag, attributes in made.page.tags:
        for name in ("src", "href"):
            value = attributes.get(name) or ""
            assert not value.startswith(outside), (tag, value)
            assert tag != "link"
    assert "@import" not in made.html
    policy = next(a["content"] for t, a in made.page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2]


def test_only_the_pages_own_scripts_run(made):
    policy = next(a["content"] for t, a in made.page.tags if a.get("http-equiv") == "Content-Security-Policy")
    running = [text for attributes, text in made.page.scripts if "type" not in attributes]
    assert len(running) == 2
    for text in running:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert not any(name.startswith("on") for _, attributes in made.page.tags for name in attributes)


def test_the_data_are_those_of_the_records(made):
    data, found = made.page.data("data"), {record.id: record for record in records.gather(made.folder)}
    assert {row["id"] for row in data["cells"]} == found.keys()
    for row in data["cells"]:
        record = found[row["id"]]
        worst = record.worst_case.mse
        assert row["mse"] == pytest.approx([worst.mean, worst.lo, worst.hi], rel=1e-4)
        assert row["accuracy"][0] == pytest.approx(100 * record.accuracy.mean, rel=1e-4)
        assert row["strongest"] == "decoder"
        assert row["curve"]["loss"] == [2.0, 1.5, 1.0]
    (arena,) = data["arenas"]
    assert [point["name"] for point in arena["front"]][-1] == "gaussian:0.025"
    (line,) = arena["noise"]
    assert [point["name"] for point in line["points"]] == ["gaussian:0.025", "gaussian:0.1", "gaussian:0.4"]
    assert data["csv"]["cells"]["text"] == (made.folder / "tables" / "cells.csv").read_text()


def test_every_cell_has_its_pictures_once(made):
    shown, pixels = made.page.data("pictures-data"), {}
    assert shown["cells"].keys() == {row["id"] for row in made.page.data("data")["cells"]}
    assert len(shown["originals"]) == 1  # all cells were attacked on the same images
    for cell_id, strip in shown["cells"].items():
        errors = records.per_image(made.folder / "cells" / cell_id, "decoder")["mse"][PLACES]
        assert strip["errors"] == pytest.approx(errors, rel=1e-3)
        pixels[cell_id] = strip["uri"]
    assert len(set(pixels.values())) == 1


def test_what_is_said_first(made):
    text = " ".join(made.page.text.split())
    assert (
        "In these trainings the attacker’s error with CEM is higher in all 2 comparisons; a loss of 1 point of" in text
    )
    assert "CEM raises" not in text  # two seeds of each
    assert "Of 6 configurations (12 trainings), 3 are best trade-offs" in text
    assert "2 of them use CEM, 1 of them is noise alone" in text
    assert "which 2 seeds make wide, cut where no value can lie" in text


def test_the_page_says_how_far_the_defenses_have_come_to_the_ceiling(made):
    text = " ".join(made.page.text.split())
    assert (
        "The mean image of the true class gives 0.05, the most that a wire can leave which still tells the class."
        in text
    )
    assert "Of the way there from the weakest noise alone, gaussian:0.025 (no cell is undefended), the others" in text
    assert "between the weakest noise alone, gaussian:0.025 (0 %) and that mean image (100 %)" in text
    rows = {(row["name"], row["seed"]): row for row in made.page.data("data")["cells"]}
    assert rows["gaussian:0.025", 0]["share"] == 0
    assert rows["gaussian:0.025 + cem:16", 0]["share"] == pytest.approx(100 * 0.0052 / 0.04, rel=0.1)
    gain = made.page.data("data")["gains"][0]
    assert gain["text"]["share"].startswith("0 → 1")


def test_sections_come_in_the_agreed_order(made):
    ids = [attributes["id"] for tag, attributes in made.page.tags if tag == "section"]
    assert ids == list(SECTIONS)


def test_the_page_opens_with_the_first_comparison_of_the_table(made):
    (part,) = Findings.read(made.folder).parts
    (_, without, first), (title, near, between), (_, cem, second) = part.opening
    assert title == "noise alone, nearest in accuracy"
    assert not near.cem
    alone = [one for one in part.group.configurations if one.family == "gaussian" and not one.cem]
    assert all(
        abs(near.accuracy.mean - cem.accuracy.mean) <= abs(one.accuracy.mean - cem.accuracy.mean) for one in alone
    )
    assert (without.name, cem.name, first.seed, second.seed) == ("gaussian:0.025", "gaussian:0.025 + cem:16", 0, 0)
    opening = made.html[made.html.index('<section id="opening">') : made.html.index('<section id="tradeoff">')]
    strips = made.page.data("pictures-data")
    for record in (first, between, second):
        assert strips["cells"][record.id]["uri"] in opening
        assert f"decoder: MSE {record.attacks['decoder'].mse}" in opening
    assert opening.count("data:image/png") == 4
    assert next(iter(strips["originals"].values()))["uri"] in opening
    assert "spread evenly over all of them" in opening


def test_what_failed_is_shown_with_the_end_of_its_log(made):
    text = made.page.text
    assert "UserError: the loss is nan in epoch 1" in text
    assert "3 attempts; the end of logs/x.log" in text
    assert "line 99\nit broke" in text
    assert "line 80\n" not in text
    assert "1 of 14 cells are not finished yet" in " ".join(text.split())


def test_a_page_elsewhere_finds_the_pictures_that_it_does_not_hold(made, tmp_path, unplotted):
    assert made.page.data("data")["base"] == "."
    out = tmp_path / "a page"
    base = Page(build(made.folder, out).read_text(encoding="utf-8")).data("data")["base"]
    assert (out / unquote(base)).resolve() == made.folder.resolve()


def test_same_records_same_plots(made, tmp_path):
    plots.draw(tmp_path, Findings.read(made.folder).parts)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (made.folder / "plots" / path.name).read_bytes(), path.name


def test_the_published_table_is_beside_ours(made):
    text = " ".join(made.page.text.split())
    assert "3 epochs of training (published 240); 500 training images (published 50,000)" in text
    assert "2 epochs of the decoder attack (published 50)" in text
    assert "gan" not in text  # no cell was attacked by it
    rows = list(csv.DictReader((made.folder / "tables" / "paper.csv").open()))
    found = {(row["method"], row["figure"]): row for row in rows}
    assert {method for method, _ in found} == {"Bottleneck", "Bottleneck + CEM", "Dropout", "Dropout + CEM"}
    row = found["Dropout + CEM", "decoder MSE"]
    assert float(row["published"]) == pytest.approx(134e-4)
    assert float(row["ours"]) == pytest.approx(0.0202, rel=0.05)
    assert row["seeds"] == "2"


def test_a_difference_is_colored_by_its_sign(made):
    (part,) = Findings.read(made.folder).parts
    table = published_table.for_page(part.published)
    accuracy, error = table["rows"][0]["cells"]
    assert (accuracy["tone"], accuracy["difference"][0]) == ("worse", "−")
    assert (error["tone"], error["difference"][0]) == ("better", "+")


def test_the_fronts_pictures_come_first(made):
    findings = Findings.read(made.folder)
    (group,) = findings.groups
    best = [one.records for one in group.best]
    ordered = [record.id for record in findings.by_need()]
    opening = {record.id for _, _, record in findings.parts[0].opening}
    assert set(ordered[: len(opening)]) == opening
    first = {trainings[0].id for trainings in best}  # one seed of each
    assert first <= set(ordered[: len(opening | first)])
    assert {trainings[1].id for trainings in best} <= set(ordered[: len(opening | first) + len(best)])
    assert len(set(ordered)) == 12


def test_pictures_keep_to_their_budget(made):
    found = records.gather(made.folder)
    assert thumbnails.gather(made.folder, found, cells=5).cells.keys() == {record.id for record in found[:5]}
    assert thumbnails.gather(made.folder, found, cells=5).left_out == 7
    assert len(thumbnails.gather(made.folder, found, budget=1).cells) == 1


def test_long_curves_are_thinned_to_their_last_epoch():
    from splitveil.report.page_data import _curve

    rows = [Epoch(epoch, 1.0, 0.5) for epoch in range(240)]
    kept = _curve(rows, 100)["epoch"]
    assert (kept[0], kept[-1]) == (1, 240)
    assert len(kept) <= 101


def test_the_command_says_where_the_page_is(made, tmp_path, capsys, unplotted):
    main(["report", str(made.folder), "--out", str(tmp_path / "r")])
    assert str(tmp_path / "r" / "report.html") in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize("name", ["none", "run"])
def test_the_command_refuses_in_one_line(name, tmp_path, capsys):
    (tmp_path / "run" / "attacks").mkdir(parents=True)
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path / name)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "splitveil bench" in error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["attacks", "run"]  # nothing is written
