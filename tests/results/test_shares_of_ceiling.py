"""Where the trainings of a grid lie between the undefended wire and the mean image of the true class."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from comparison_helpers import attacked, shown, trained, values
from report_helpers import IMAGES, add, cell
from splitveil.cli._shared import out_console
from splitveil.report import captions
from splitveil.results import ceiling, records
from splitveil.results.comparison import compare
from splitveil.results.comparison_rows import Comparison
from splitveil.results.findings import Findings, Part


def share(error: float, start: float, seed: int = 0) -> float:
    """The share of a cell of `add`, whose images are harder or easier by a factor that is the same for all cells."""
    hard = float(np.random.default_rng(seed).uniform(0.5, 1.5, IMAGES).mean())
    return (error - start) * hard / (0.05 - start * hard)


def part(folder: Path) -> Part:
    (found,) = Findings.read(folder).parts
    return found


def by_name(found: Part) -> dict[str, str]:
    return {one.name: ceiling.text(ceiling.of_configuration(one, found.shares)) for one in found.group.configurations}


def test_the_undefended_training_of_the_same_seed_is_the_start(tmp_path):
    for seed in (0, 1):
        add(tmp_path, cell("cem:0", seed=seed), 0.7, 0.01, class_mean=0.05)
        add(tmp_path, cell("gaussian:0.1", seed=seed), 0.6, 0.02, class_mean=0.05)
        add(tmp_path, cell("gaussian:0.1", "cem:16", seed=seed), 0.6, 0.03, class_mean=0.05)
    found = part(tmp_path)
    assert ceiling.name_of(list(found.shares.values())) == "no defense"
    assert found.group.class_mean_mse == pytest.approx(0.05)
    for one in found.group.configurations:
        mean = ceiling.of_configuration(one, found.shares)
        assert mean is not None
        error = {"none": 0.01, "gaussian:0.1": 0.02, "gaussian:0.1 + cem:16": 0.03}[one.name]
        assert mean.mean == pytest.approx((share(error, 0.01, 0) + share(error, 0.01, 1)) / 2, abs=1e-6)
    text = captions.ceiling(found.group, found.shares)
    assert "The mean image of the true class gives 0.05" in text
    assert "Of the way there from no defense, the others have come 2" in text
    assert text.endswith("% (gaussian:0.1 + cem:16).")


def test_weak_noise_that_stands_for_it_is_named(tmp_path):
    add(tmp_path, cell("gaussian:0.2"), 0.6, 0.02)
    add(tmp_path, cell("gaussian:0.05"), 0.6, 0.01)
    add(tmp_path, cell("dropout:0.2"), 0.6, 0.03)
    found = part(tmp_path)
    assert by_name(found)["gaussian:0.05"] == "0 [0, 0]"
    assert "from the weakest noise alone, gaussian:0.05 (no cell is undefended), the others" in captions.ceiling(
        found.group, found.shares
    )


def test_other_networks_seeds_and_images_have_no_start(tmp_path):
    add(tmp_path, cell(), 0.7, 0.01)
    add(tmp_path, cell("gaussian:0.1", bottleneck=16), 0.6, 0.02)
    add(tmp_path, cell("gaussian:0.1", seed=1), 0.6, 0.02)
    add(tmp_path, cell("gaussian:0.2"), 0.6, 0.02, digest="others")
    found = part(tmp_path)
    assert by_name(found) == {
        "none · bottleneck 8": "0 [0, 0]",
        "gaussian:0.1 · bottleneck 8": "–",
        "gaussian:0.2 · bottleneck 8": "–",
        "gaussian:0.1 · bottleneck 16": "0 [0, 0]",
    }


def test_a_record_of_before_is_read_and_has_no_share(tmp_path):
    record = add(tmp_path, cell("gaussian:0.1"), 0.6, 0.02, class_mean=None)
    assert "class_mean_mse" not in record["attacks"]["decoder"]
    assert records.read(tmp_path / "cells" / record["id"] / "record.json").class_mean_mse is None
    found = part(tmp_path)
    assert (found.shares, found.group.class_mean_mse) == ({}, None)
    assert captions.ceiling(found.group, found.shares) == ""
    add(tmp_path, cell("gaussian:0.2"), 0.6, 0.03)  # the start may be of before: the ceiling is that of the later one
    assert by_name(part(tmp_path)) == {"gaussian:0.1": "–", "gaussian:0.2": by_name(part(tmp_path))["gaussian:0.2"]}
    assert by_name(part(tmp_path))["gaussian:0.2"] != "–"


def test_an_attack_that_fails_without_a_defense_gives_no_percentage(tmp_path):
    add(tmp_path, cell(), 0.7, 0.06)
    add(tmp_path, cell("gaussian:0.1"), 0.6, 0.07)
    found = part(tmp_path)
    assert set(by_name(found).values()) == {"–"}
    assert captions.ceiling(found.group, found.shares).endswith(
        "It is not shown to be above the error on no defense, so that no percentage can be given."
    )


def test_the_tables_show_it(tmp_path):
    for defense, error in ((("gaussian:0.1", "cem:0"), 0.01), (("gaussian:0.1", "cem:16"), 0.03)):
        add(tmp_path, cell(*defense), 0.6, error)
    cells, effects, *_ = Findings.read(tmp_path).tables()
    rows = {row["setup"]: row for row in csv.DictReader(io.StringIO(cells.csv()))}
    assert float(rows["gaussian:0.1"]["share_of_ceiling"]) == 0
    assert float(rows["gaussian:0.1 + cem:16"]["share_of_ceiling"]) == pytest.approx(share(0.03, 0.01), abs=1e-6)
    assert rows["gaussian:0.1 + cem:16"]["undefended"] == "gaussian:0.1"
    assert float(rows["gaussian:0.1"]["class_mean_mse"]) == 0.05
    assert "between the weakest noise alone, gaussian:0.1 (0" in cells.caption
    assert "to class mean" in cells.latex()
    (row,) = effects.shown
    assert row[ceiling.SHARE].startswith("0 → ")


def test_a_comparison_says_how_far_b_has_come_from_a(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(out_console, "width", 200)
    runs = [trained(tmp_path / name, [1, 1, 0, 0]) for name in "ab"]
    for run, errors in zip(runs, ([0.1, 0.2], [0.2, 0.3]), strict=True):
        attacked(run, "linear", values(errors))
    before = compare(runs[0], runs[1])
    assert isinstance(before, Comparison)
    assert all(row.share is None for row in before.rows)
    assert "class mean" not in shown(capsys, *runs)
    file = runs[1] / "attacks" / "linear" / "per_image.csv"
    first, *lines = file.read_text().splitlines()
    file.write_text(
        "\n".join([f"{first},class_mean_mse", *(f"{row},{e}" for row, e in zip(lines, (0.5, 0.6), strict=True))])
    )
    summary = runs[1] / "attacks" / "linear" / "summary.json"
    summary.write_text(json.dumps(json.loads(summary.read_text()) | {"class_mean_mse": 0.55}))
    after = compare(runs[0], runs[1])
    assert isinstance(after, Comparison)
    shares = {row.metric: row.share for row in after.rows}
    assert shares["mse"] is not None
    assert (shares["mse"].mean, shares["psnr"]) == (pytest.approx(0.25), None)
    text = shown(capsys, *runs, "--out", tmp_path / "c.json")
    assert "to class mean % 0 25 [25, 25]" in text
    assert "between A (0 %) and the mean image of the true class (100 %)" in text
    rows = json.loads((tmp_path / "c.json").read_text())["rows"]
    assert next(row for row in rows if row["metric"] == "mse")["share_of_ceiling"]["mean"] == pytest.approx(0.25)
