"""Attacks that were made again after the record of their cell was written: nothing is said of such a cell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from report_helpers import add, again, cell, change
from splitveil.errors import UserError
from splitveil.report.bench import build
from splitveil.results import ceiling, cem_effect, equal_accuracy, groups, records
from splitveil.results.attack_files import AttackFiles, as_recorded
from splitveil.results.findings import Findings
from splitveil.storage import reading

WITHOUT, WITH, NOISE = cell("gaussian:0.1", "cem:0"), cell("gaussian:0.1", "cem:16"), cell("gaussian:0.2", "cem:0")


@pytest.fixture
def folder(tmp_path) -> Path:
    """CEM adds nothing in this bench, as its records and the files of its attacks say."""
    for one in (WITHOUT, WITH, NOISE):
        add(tmp_path, one, 0.6, 0.02)
    return tmp_path


def summary(folder: Path, label: str = "decoder") -> Path:
    return folder / "cells" / WITHOUT.id / "attacks" / label / "summary.json"


MADE_AGAIN = {
    "other settings": {"attack": {"decoder": {"epochs": 40}}},
    "other attacked images": {"images_digest": "others", "count": 10},
    "other errors": {},
}


@pytest.mark.parametrize("what", MADE_AGAIN)
def test_a_cell_whose_attack_was_made_again_is_left_out_and_named(folder, what):
    assert len(Findings.read(folder).effects) == 1
    again(folder, WITHOUT, 0.004, **MADE_AGAIN[what])
    found = Findings.read(folder)
    assert found.left_out == {WITHOUT.id: f"its attack decoder was made again and has {what}"}
    assert {record.id for record in found.records} == {WITH.id, NOISE.id}
    assert found.effects == []


def test_other_images_to_learn_from_are_noticed_in_an_attack_that_learns_nothing(folder):
    change(summary(folder), baseline_mse=0.061)
    assert Findings.read(folder).left_out == {WITHOUT.id: "its attack decoder was made again and has other errors"}


def test_an_attack_that_was_stopped_while_its_files_were_replaced_is_no_finding(folder):
    again(folder, WITHOUT, 0.004)
    summary(folder).unlink()
    assert Findings.read(folder).left_out == {WITHOUT.id: "its attack decoder was begun again and not finished"}


def test_values_of_another_attack_are_refused_wherever_they_are_read(folder):
    for strength in ("gaussian:0.4", "gaussian:0.8"):
        add(folder, cell(strength, "cem:0"), 0.5, 0.03)
    again(folder, WITHOUT, 0.004, count=10, images_digest="others")
    (group,) = groups.comparison_groups(records.gather(folder))
    for one in group.records:
        (folder / "cells" / one.id / "test.csv").write_text("image,label,predicted\n0,1,1\n1,1,0\n")
    for read in (cem_effect.cem_effects, equal_accuracy.equals, ceiling.shares):
        with pytest.raises(
            UserError, match="is no longer what its record says: its attack decoder was made again"
        ) as why:
            read(folder, group)
        assert "\n" not in str(why.value)


def test_where_no_cell_is_left_the_report_is_one_line(tmp_path):
    add(tmp_path, WITHOUT, 0.6, 0.02)
    again(tmp_path, WITHOUT, 0.004)
    with pytest.raises(UserError, match=f"of cell {WITHOUT.id}, its attack decoder was made again") as why:
        build(tmp_path)
    assert str(why.value).endswith("run its grid again: it makes what differs anew")
    assert "\n" not in str(why.value)


def test_an_attack_from_before_a_parameter_is_the_same_one(folder):
    """Its record was written by a later version, or the other way around."""
    stored = json.loads(summary(folder).read_text())["attack"]
    assert len(stored["decoder"]) > 1
    change(summary(folder), attack={"decoder": {"epochs": 2}})
    assert Findings.read(folder).left_out == {}


def test_a_record_that_was_kept_alone_is_taken_at_its_word(folder):
    run = folder / "cells" / WITHOUT.id
    record = records.read(run / "record.json")
    again(folder, WITHOUT, 0.004)
    assert as_recorded(run, record)
    (run / "config.yaml").touch()
    assert not as_recorded(run, record)


def test_each_summary_and_each_table_of_errors_is_read_once(folder, monkeypatch):
    read: list[Path] = []

    def counted(path: Path, *rest: Any) -> Any:
        read.append(path)
        return before(path, *rest)

    before = reading.read_json
    monkeypatch.setattr(reading, "read_json", counted)
    assert Findings.read(folder).effects
    summaries = [path for path in read if path.name == "summary.json"]
    assert len(summaries) == len(set(summaries)) == 6
    files, (one, *_) = AttackFiles(folder), records.gather(folder)
    assert files.errors(one) is files.errors(one)
    assert np.array_equal(files.errors(one), records.per_image(files.cells / one.id, "decoder")["mse"])
