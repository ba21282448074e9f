"""Records: what they are made of, how they are read back, and what a set of them says."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from report_helpers import IMAGES, add, bench, cell, fail, run_folder
from splitveil.bench import record
from splitveil.bench.record import build
from splitveil.errors import UserError
from splitveil.results import cem_effect, groups, records, tables
from splitveil.statistics import evidence, intervals


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return bench(tmp_path_factory.mktemp("benches") / "small")


@pytest.fixture
def one(tmp_path):
    """(bench folder, path of the only record, what is in it)."""
    record = add(tmp_path, cell("gaussian:0.1", "cem:16"), 0.6, 0.01)
    return tmp_path, tmp_path / "cells" / record["id"] / "record.json", record


def change(path: Path, **more: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.parametrize(
    ("spec", "came"), [("dropout:0.2", "rescale"), ("nopeek:0.3", "normalized"), ("hsic:form=plain", "form")]
)
def test_a_record_from_before_a_parameter_is_read_like_one_of_today(tmp_path, spec, came):
    """Or seeds of one grid, some trained before it and some after, would not be averaged."""
    record = add(tmp_path, cell("gaussian:0.1", spec), 0.6, 0.01)
    path = tmp_path / "cells" / record["id"] / "record.json"
    old = json.loads(path.read_text())
    name = spec.partition(":")[0]
    del old["config"]["defense"][1][name][came]
    path.write_text(json.dumps(old))
    assert records.read(path).config == record["config"]
    old["config"]["defense"].append({"of_another_package": {"x": 1}})
    old["defense"].append("of_another_package:1")
    path.write_text(json.dumps(old))
    assert records.read(path).config["defense"][-1] == {"of_another_package": {"x": 1}}


def test_a_record_holds_what_the_run_left(one):
    _, path, record = one
    read = records.read(path)
    for key in ("id", "axes", "config", "defense", "protocol", "wire"):
        assert getattr(read, key) == record[key] or vars(getattr(read, key)) == record[key]
    assert read.accuracy.as_dict() == record["accuracy"]
    assert read.attacks["linear"].psnr.as_dict() == record["attacks"]["linear"]["psnr"]
    assert read.attacker.mse.as_dict() == record["worst_case"]["mse"]
    assert (read.strongest, read.attacks["decoder"].spec[0], read.seed) == ("decoder", "decoder", 0)
    assert [vars(row) for row in read.curve] == record["curve"]
    assert read.timings.work == 12 + 0 + 3 + 3
    assert record["defense"] == ["gaussian:0.1", "cem:16"]
    assert record["accuracy"]["mean"] == pytest.approx(0.6)
    assert (record["attacker_size"], record["attacked"], record["protocol"]) == (200, IMAGES, "inference_time")
    assert record["curve"][1] == {"epoch": 1, "loss": 1.5, "accuracy_val": pytest.approx(0.55)}
    assert record["attacks"]["decoder"]["attack"]["decoder"]["epochs"] == 2
    assert record["timings"]["attacks"] == {"linear": 3.0, "decoder": 3.0}
    assert 20 <= record["timings"]["total"] < 200
    assert record["images_digest"] == "images-0"
    assert "root" not in record["config"]  # where images lie is nobody's business


def test_the_worst_case_is_taken_image_by_image(tmp_path):
    of = cell("gaussian:0.1")
    a, b = np.linspace(0.01, 0.03, IMAGES), np.linspace(0.03, 0.01, IMAGES)
    run = run_folder(tmp_path / "run", of, 0.5, {"linear": a, "decoder": b})
    found = build(run, of, grid="g", attempts=1, started=0.0)["worst_case"]
    lowest = np.minimum(a, b)
    assert found["mse"]["mean"] == pytest.approx(lowest.mean())
    assert found["ssim"]["mean"] == pytest.approx((1 - 10 * lowest).mean())
    assert found["psnr"]["mean"] == pytest.approx((-10 * np.log10(lowest)).mean())


def test_attacks_on_different_images_make_no_record(tmp_path):
    of = cell("gaussian:0.1")
    run = run_folder(tmp_path / "run", of, 0.5, dict.fromkeys(of.attacks, np.full(IMAGES, 0.01)))
    change(run / "attacks" / "linear" / "summary.json", images_digest="others")
    with pytest.raises(UserError, match=r"scored on different images \(images-0, others\); delete its folder attacks/"):
        build(run, of, grid="g", attempts=1, started=0.0)


def test_a_missing_attack_is_named(tmp_path):
    of = cell("gaussian:0.1")
    run = run_folder(tmp_path / "run", of, 0.5, {"decoder": np.full(IMAGES, 0.01)})
    with pytest.raises(UserError, match=r"cannot read .*attacks/linear/summary.json: No such file"):
        build(run, of, grid="g", attempts=1, started=0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,mse\n0,0.1\n", "it has no column psnr, ssim"),
        ("image,mse,psnr,ssim\n0,0.1,x,0.3\n", "is damaged"),
        ("image,mse,psnr,ssim\n0,0.1,0.2\n", "its rows have 3 numbers under 4 names"),
    ],
)
def test_damaged_values_per_image(tmp_path, text, message):
    (tmp_path / "attacks" / "linear").mkdir(parents=True)
    (tmp_path / "attacks" / "linear" / "per_image.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        records.per_image(tmp_path, "linear")


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (2, "a record of schema 2; this version reads schema 1: use the version of splitveil that wrote it"),
        (0, "a record of schema 0; this version reads schema 1: run its grid again"),
        (None, "a record of schema None; this version reads schema 1: run its grid again"),
    ],
)
def test_another_schema_is_refused_in_one_line(one, schema, message):
    folder, path, _ = one
    change(path, schema=schema)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        records.gather(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:100], "record.json is damaged"),
        (lambda text: "[]", "is damaged .Input should be an object"),
        (lambda text: text.replace('"epoch": 2,', ""), "is damaged .epoch: Field required"),
        (lambda text: text.replace('"ci95"', '"ci90"', 1), "is damaged .accuracy.ci95: Field required"),
        (lambda text: text.replace('"loss": 2.0', '"loss": NaN'), "curve.0.loss: Input should be a finite number"),
        (lambda text: text.replace('"linear": {\n', '"../../x": {\n', 1), r"attacks.*String should match pattern"),
    ],
)
def test_a_damaged_record_is_named_with_its_place(one, damage, message):
    folder, path, _ = one
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message):
        records.gather(folder)


def test_a_record_and_its_settings_have_the_same_defenses(one):
    folder, path, _ = one
    found = json.loads(path.read_text())
    change(path, config={key: value for key, value in found["config"].items() if key != "defense"})
    with pytest.raises(UserError, match=r"is damaged .defense: 2, in config another number.; delete the folder"):
        records.gather(folder)


def test_bytes_that_are_no_text(one):
    _, path, _ = one
    path.write_bytes(b"\xff\xfe{")
    with pytest.raises(UserError, match="damaged"):
        records.read(path)


def test_folders_that_are_no_bench(tmp_path, one):
    folder, path, _ = one
    with pytest.raises(UserError, match="there is no folder"):
        records.gather(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is no bench folder: it has no cells/"):
        records.gather(tmp_path / "empty")
    path.parent.rename(path.parent.with_name("0" * 12))
    with pytest.raises(UserError, match="holds the record of cell"):
        records.gather(folder)


def test_a_bench_in_which_nothing_is_done_says_what_failed(tmp_path):
    (tmp_path / "cells" / "a").mkdir(parents=True)
    with pytest.raises(UserError, match="has no finished cell; run"):
        records.gather(tmp_path)
    fail(tmp_path, cell("gaussian:0.1"), "UserError: the loss is nan")
    with pytest.raises(UserError, match="no finished cell; 1 failed, the first with: UserError: the loss is nan; run"):
        records.gather(tmp_path)


def test_a_failure_that_was_made_good_is_none(one):
    folder, _, _ = one
    fail(folder, cell("gaussian:0.1", "cem:16"), "killed")
    fail(folder, cell("gaussian:0.2"), "killed")
    assert [note.config["defense"] for note in records.failures(folder)] == [[{"gaussian": {"sigma": 0.2}}]]


def test_code_outside_git_has_no_commit(monkeypatch, tmp_path):
    state = record.git_state()
    assert state is None or re.fullmatch("[0-9a-f]{40}", state["commit"])
    monkeypatch.setattr(record, "__file__", str(tmp_path / "record.py"))
    assert record.git_state() is None


points = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=20)


@given(points)
def test_the_front_is_what_nothing_beats(found):
    front = groups.pareto(found)
    beaten = [any(b[0] >= a[0] and b[1] >= a[1] and b != a for b in found) for a in found]
    assert {found[place] for place in front} == {point for point, worse in zip(found, beaten, strict=True) if not worse}
    assert [found[place][0] for place in front] == sorted({found[place][0] for place in front})


def test_over_seeds_is_students_interval():
    from scipy import stats

    values = [0.3, 0.5, 0.1, 0.45]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    found = evidence.over_seeds(values)
    assert [found.mean, found.lo, found.hi] == pytest.approx([float(np.mean(values)), low, high])


@pytest.mark.parametrize("count", [2, 500, 3000])  # 3000: more than one round of resampling
def test_many_paired_intervals_are_the_single_ones(count):
    values = torch.randn(3, count, generator=torch.Generator().manual_seed(0), dtype=torch.float64).numpy()
    for row, found in zip(values, groups.paired_intervals(values), strict=True):
        single = intervals.paired_difference(row, np.zeros(count))
        assert [found.mean, found.lo, found.hi] == pytest.approx([single.mean, single.lo, single.hi], abs=1e-12)


def test_configurations_gather_their_seeds(folder):
    (group,) = groups.comparison_groups(records.gather(folder))
    assert group.name == "cifar10"
    assert {len(one.records) for one in group.configurations} == {2}
    names = {one.name: one for one in group.configurations}
    both = names["gaussian:0.025 + dropout:0.2 + cem:16"]
    assert (both.family, both.stack, both.cem, both.sigma) == (
        "dropout",
        "gaussian:0.025 + dropout:0.2",
        "cem:16",
        0.025,
    )
    assert names["gaussian:0.1"].cem == ""  # cem:0 trains nothing
    assert both.accuracy == evidence.over_seeds([record.accuracy.mean for record in both.records])
    best = [group.configurations[place].name for place in group.front]
    assert best == ["gaussian:0.025 + dropout:0.2 + cem:16", "gaussian:0.025 + cem:16", "gaussian:0.025"]


def test_only_like_is_compared_with_like(tmp_path):
    bench(tmp_path, seeds=1)
    add(tmp_path, cell("gaussian:0.025", data="cifar100"), 0.9, 0.9)
    add(tmp_path, cell("gaussian:0.025", protocol="train_time"), 0.95, 0.95)
    found = groups.comparison_groups(records.gather(tmp_path))
    assert {group.name for group in found} == {
        "cifar10, inference_time",
        "cifar100, inference_time",
        "cifar10, train_time",
    }
    assert sum(len(group.configurations) for group in found) == 8


def test_what_differs_beside_the_defense_is_in_the_name(tmp_path):
    add(tmp_path, cell("gaussian:0.1"), 0.5, 0.01)
    add(tmp_path, cell("gaussian:0.1", epochs=9), 0.6, 0.01)
    (group,) = groups.comparison_groups(records.gather(tmp_path))
    assert [one.name for one in group.configurations] == ["gaussian:0.1 · epochs 3", "gaussian:0.1 · epochs 9"]


def test_the_gain_is_paired_within_seeds_then_taken_over_them(folder):
    (group,) = groups.comparison_groups(records.gather(folder))
    found = {effect.without.stack: effect for effect in cem_effect.cem_effects(folder, group)}
    assert found.keys() == {"gaussian:0.025", "gaussian:0.025 + dropout:0.2"}
    effect = found["gaussian:0.025"]
    by_seed = []
    for seed in (0, 1):
        errors = {}
        for one in (effect.without, effect.configuration):
            record = one.by_seed[seed]
            errors[one.cem] = records.per_image(folder / "cells" / record.id, "decoder")["mse"]
        by_seed.append(intervals.paired_difference(errors["cem:16"], errors[""]))
    for ours, single in zip(effect.mse_by_seed, by_seed, strict=True):
        assert [ours.mean, ours.lo, ours.hi] == pytest.approx([single.mean, single.lo, single.hi])
    assert effect.mse == evidence.over_seeds([part.mean for part in effect.mse_by_seed])
    assert effect.accuracy.mean == pytest.approx(-0.02)
    assert effect.relative == pytest.approx(effect.mse_means[1] / effect.mse_means[0] - 1)


@pytest.mark.parametrize("digest", [None, "other images"])
def test_what_was_attacked_on_other_images_is_no_pair(tmp_path, digest):
    add(tmp_path, cell("gaussian:0.1", "cem:0"), 0.6, 0.01)
    add(tmp_path, cell("gaussian:0.1", "cem:16"), 0.6, 0.02, digest=digest)
    (group,) = groups.comparison_groups(records.gather(tmp_path))
    assert cem_effect.cem_effects(tmp_path, group) == []


def test_one_seed_has_the_interval_of_its_images(tmp_path):
    bench(tmp_path, seeds=1)
    (group,) = groups.comparison_groups(records.gather(tmp_path))
    for effect in cem_effect.cem_effects(tmp_path, group):
        assert effect.mse == effect.mse_by_seed[0]
        assert effect.accuracy == effect.accuracy_by_seed[0]


@pytest.mark.parametrize("same", [True, False])
def test_accuracy_is_paired_where_both_answered_the_same_images(tmp_path, same):
    right = np.arange(1000) < 600
    for weight, answered, digest in ((0, right, "t"), (16, np.roll(right, 20), "t" if same else "u")):
        record = add(tmp_path, cell("gaussian:0.1", f"cem:{weight}"), 0.6, 0.01, test_digest=digest)
        rows = [f"{i},0,{int(not hit)}" for i, hit in enumerate(answered)]
        (tmp_path / "cells" / record["id"] / "test.csv").write_text("\n".join(["image,label,predicted", *rows]) + "\n")
    (group,) = groups.comparison_groups(records.gather(tmp_path))
    (effect,) = cem_effect.cem_effects(tmp_path, group)
    assert effect.accuracy_paired == same
    assert effect.accuracy.mean == pytest.approx(0)
    share = intervals.binomial_ci(600, 1000)
    expected = intervals.paired_hits(np.roll(right, 20), right) if same else intervals.unpaired_difference(share, share)
    assert [effect.accuracy.lo, effect.accuracy.hi] == pytest.approx([expected.lo, expected.hi], abs=1e-12)


def test_csv_gives_back_the_numbers(folder):
    found = groups.comparison_groups(records.gather(folder))
    rows = list(csv.DictReader(io.StringIO(tables.cells_table(found).csv())))
    by_id = {row["id"]: row for row in rows}
    for left in records.gather(folder):
        assert float(by_id[left.id]["worst_mse_hi"]) == left.worst_case.mse.hi
        assert float(by_id[left.id]["decoder_mse"]) == left.attacks["decoder"].mse.mean
    assert sum(int(row["front"]) for row in rows) == 6


def test_latex_is_whole_and_escaped():
    row = {"a_b": "50 % & #1 $x$ {y} ~ ^ \\z", "σ": "0.1 → 0.2"}
    text = tables.Table("t", "A & B", [], [row]).latex()
    assert r"50 \% \& \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}z" in text
    assert r"a\_b & $\sigma$ \\" in text
    assert r"\caption{A \& B}" in text
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]


def test_gains_as_latex(folder):
    (group,) = groups.comparison_groups(records.gather(folder))
    text = tables.effects_table([(group, effect) for effect in cem_effect.cem_effects(folder, group)], {}).latex()
    line = next(line for line in text.splitlines() if line.startswith("gaussian:0.025 + dropout"))
    assert line.count("&") == 6  # without the column of noise at equal accuracy, of which there is none
    assert r"57.0 $\to$" not in line  # without comes first
    assert r"58.2 $\to$ 57.2" in line


def test_attacks_from_before_a_parameter_fall_into_one_group_with_those_of_today(tmp_path):
    """A grid does not make them again, so that nothing else would ever be compared with them."""
    record = add(tmp_path, cell("gaussian:0.1", "cem:0"), 0.6, 0.01)
    add(tmp_path, cell("gaussian:0.1", "cem:16"), 0.6, 0.02)
    path = tmp_path / "cells" / record["id"] / "record.json"
    old = json.loads(path.read_text())
    old["attacks"]["decoder"]["attack"] = {"decoder": {"epochs": 2}}
    old["attacks"]["linear"]["attack"] = {"of_another_package": {"x": 1}}
    path.write_text(json.dumps(old))
    read = records.read(path).attacks
    assert read["decoder"].attack == record["attacks"]["decoder"]["attack"]
    assert read["linear"].attack == {"of_another_package": {"x": 1}}
    change(path, attacks=record["attacks"] | {"decoder": old["attacks"]["decoder"]})
    (group,) = groups.comparison_groups(records.gather(tmp_path))
    assert len(group.configurations) == 2
