"""The page of a bench of which files are missing or damaged: made without these attacks, which are named."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from report_helpers import IMAGES, Page, add, cell
from splitveil.cli import main
from splitveil.errors import UserError
from splitveil.report.bench import build
from splitveil.results import records
from splitveil.results.findings import Findings

WITHOUT, WITH, NOISE = cell("gaussian:0.1", "cem:0"), cell("gaussian:0.1", "cem:16"), cell("gaussian:0.2", "cem:0")


@pytest.fixture
def folder(tmp_path) -> Path:
    for one in (WITHOUT, WITH, NOISE):
        add(tmp_path, one, 0.6, 0.02)
    return tmp_path


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    text = path.read_text()
    path.write_text(text[: len(text) // 2])


def shorter(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def no_class_mean(path: Path) -> None:
    path.write_text("".join(line.rpartition(",")[0] + "\n" for line in path.read_text().splitlines()))


def no_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00")


HURT = [gone, empty, half, shorter, no_class_mean, no_text]


@pytest.mark.parametrize("hurt", HURT)
@pytest.mark.parametrize("one", [WITHOUT, WITH, NOISE])
def test_an_attack_that_cannot_be_read_is_left_out_and_named(folder, unplotted, hurt, one):
    hurt(folder / "cells" / one.id / "attacks" / "decoder" / "per_image.csv")
    lines: list[str] = []
    text = Page(build(folder, note=lines.append).read_text()).text
    (line,) = lines
    assert line in text
    assert line.startswith(f"The attack decoder of cell {one.id} is left out: ")
    assert "attacks/decoder/per_image.csv" in line
    assert "run the grid again: what is missing is made" in line
    assert str(folder) not in line
    rows = list(csv.DictReader((folder / "tables" / "cells.csv").read_text().splitlines()))
    assert {row["id"] for row in rows} == {WITHOUT.id, WITH.id, NOISE.id}


def test_figures_of_the_cell_are_those_of_the_attacks_that_are_left(folder):
    before = {record.id: record for record in Findings.read(folder).records}
    (folder / "cells" / WITH.id / "attacks" / "decoder" / "per_image.csv").unlink()
    found = Findings.read(folder)
    left = {record.id: record for record in found.records}
    assert [*left[WITH.id].attacks] == ["linear"]
    assert left[WITH.id].worst_case.mse.mean == pytest.approx(left[WITH.id].attacks["linear"].mse.mean, rel=1e-6)
    assert left[WITH.id].worst_case.mse.mean > before[WITH.id].worst_case.mse.mean
    assert {name: left[name] for name in (WITHOUT.id, NOISE.id)} == {n: before[n] for n in (WITHOUT.id, NOISE.id)}
    assert found.effects == []  # its error is that of fewer attacks, so that it is compared with none of more
    assert len(found.groups) == 2


@pytest.mark.parametrize("what", ["summary.json", ""])
def test_an_attack_of_which_the_summary_is_damaged_or_all_is_gone_is_left_out(folder, what):
    attack = folder / "cells" / WITH.id / "attacks" / "linear"
    (attack / what).write_text("{") if what else shutil.rmtree(attack)
    assert [*Findings.read(folder).unread] == [WITH.id]
    assert [*Findings.read(folder).unread[WITH.id]] == ["linear"]


def test_a_cell_without_an_attack_that_can_be_read_is_left_out(folder, unplotted):
    for label in ("linear", "decoder"):
        gone(folder / "cells" / WITH.id / "attacks" / label / "per_image.csv")
    lines: list[str] = []
    build(folder, note=lines.append)
    assert len(lines) == 2
    assert all(line.endswith("With it the whole cell is left out.") for line in lines)
    rows = list(csv.DictReader((folder / "tables" / "cells.csv").read_text().splitlines()))
    assert {row["id"] for row in rows} == {WITHOUT.id, NOISE.id}
    for one in (WITHOUT, NOISE):
        shutil.rmtree(folder / "cells" / one.id)
    with pytest.raises(
        UserError, match=f"no cell of which something can be said: of cell {WITH.id}, the attack"
    ) as why:
        build(folder)
    assert "\n" not in str(why.value)


def answered(folder: Path, *some: str) -> None:
    """Let networks leave their answers to the test images."""
    for name in some:
        rows = [f"{i},1,{int(i % 10 < 6)}" for i in range(IMAGES)]
        (folder / "cells" / name / "test.csv").write_text("\n".join(["image,label,predicted", *rows]) + "\n")


@pytest.mark.parametrize("hurt", [half, shorter, no_text, empty])
def test_answers_that_cannot_be_read_are_named_and_the_accuracy_is_not_paired(tmp_path, hurt):
    for one in (WITHOUT, WITH):
        add(tmp_path, one, 0.6, 0.02, test_digest="t1")
    answered(tmp_path, WITHOUT.id, WITH.id)
    (effect,) = Findings.read(tmp_path).effects
    assert effect.accuracy_paired
    hurt(tmp_path / "cells" / WITH.id / "test.csv")
    found = Findings.read(tmp_path)
    assert not found.effects[0].accuracy_paired
    if hurt is not shorter:  # a shorter table may be whole
        (line,) = found.notes
        assert line.startswith(f"The answers of cell {WITH.id} are left out: test.csv is damaged")
    (tmp_path / "cells" / WITH.id / "test.csv").unlink()
    assert Findings.read(tmp_path).notes == []  # as in runs that have left none


def test_a_record_that_was_kept_without_its_attacks_is_taken_at_its_word(folder):
    shutil.rmtree(folder / "cells" / WITH.id / "attacks")
    found = Findings.read(folder)
    assert {record.id for record in found.records} == {WITHOUT.id, WITH.id, NOISE.id}
    assert (found.notes, found.effects) == ([], [])


def test_the_terminal_names_what_is_left_out(folder, unplotted, capsys):
    (folder / "cells" / WITH.id / "attacks" / "decoder" / "per_image.csv").unlink()
    main(["report", str(folder)])
    said = capsys.readouterr().out
    assert f"note: The attack decoder of cell {WITH.id} is left out: cannot read attacks/decoder/per_image.csv" in said


def test_the_errors_of_a_cell_are_those_that_its_files_hold(folder):
    from splitveil.results.attack_files import AttackFiles

    files, (one, *_) = AttackFiles(folder), records.gather(folder)
    direct = AttackFiles(folder).errors(one)
    assert files.look(one).record == one
    assert np.array_equal(files.errors(one), direct)
