"""Rehearsals and plans: each kind of cell is tried once, nothing is left, and counts are those of what really runs."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from dataclasses import replace
from typing import Any

import pytest
import torch

from splitveil import config, runs
from splitveil.bench import checks, forecast, image_sets
from splitveil.bench.cell import run_cell
from splitveil.bench.cells import Cell, Grid
from splitveil.bench.forecast import Kind
from splitveil.bench.grid import load_grid
from splitveil.bench.image_sets import DatasetSize, ImageSets
from splitveil.cli import main
from splitveil.data import load, protocol
from splitveil.data.protocol import protocol_sizes
from splitveil.errors import UserError
from splitveil.evaluation.rehearsal import Tried
from splitveil.runtime import Budget, Runtime
from training_helpers import SIZES, settings

pytestmark = pytest.mark.usefixtures("quick_weights")

LINEAR = "linear:looks=1"
DECODER = "decoder:epochs=900,network=res_normN1C16"


def spec(text: str) -> config.Spec:
    return config.Spec.model_validate(text).resolve("attacks")


def cell(attacks: tuple[str, ...] = (), **values: Any) -> Cell:
    limits = {key: values.pop(key) for key in ("attacker_size", "attacked") if key in values}
    named = {text.partition(":")[0]: spec(text) for text in attacks}
    return Cell(settings(**values).resolve(), named, **limits)


def grid(*cells: Cell) -> Grid:
    return Grid("mine", "", cells)


@pytest.fixture
def measured(monkeypatch):
    """Nothing is trained; an epoch takes a second for each image."""
    tried: list[Cell] = []

    def found(cell: Cell, cells: list[Cell], *_: Any) -> Kind:
        tried.append(cell)
        attacks = {forecast._attacker(one): dict.fromkeys(one.attacks, 60.0) for one in cells}
        about = {"name": forecast._title(cell.settings), "cells": len(cells), "loss": 0.0, "step": 0.5, "image": 1.0}
        return Kind(**about, attacks=attacks, disk=1000, memory=5_000_000_000, wire=8, seconds=0.0)

    monkeypatch.setattr(forecast, "_tried", found)
    monkeypatch.setattr(forecast, "_busy", list)
    return tried


# The rehearsal


def test_each_kind_is_tried_once_with_what_acts(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[int, int]] = []
    about: dict[str, Any] = {"attacks": (LINEAR, DECODER), "train_size": None, "test_size": None, "epochs": 240}
    cells = [cell(defense=("gaussian:0.1", f"cem:{w}"), seed=seed, **about) for w in (0, 16) for seed in (0, 1)]
    cells += [cell(defense=(), protocol=name, **about) for name in ("train_time", "inference_time")]
    tried: list[config.TrainConfig] = []
    real = forecast.fit
    monkeypatch.setattr(forecast, "fit", lambda settings, *rest: (tried.append(settings), real(settings, *rest))[1])
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = list(forecast.rehearse(grid(*cells), progress=lambda *done: seen.append(done)).values())
    assert [(kind.cells, len(kind.attacks)) for kind in found] == [(4, 1), (2, 2)]  # two attackers of the second
    assert seen == [(1, 2), (2, 2)]
    assert tried[0].defense[1].parameters["weight"] == 16
    assert all(about.epochs == forecast.EPOCHS for about in tried)
    assert all(seconds > 0 for kind in found for those in kind.attacks.values() for seconds in those.values())
    assert all({*those} == {"linear", "decoder"} for kind in found for those in kind.attacks.values())
    assert all(min(kind.step, kind.image, kind.disk, kind.memory) > 0 for kind in found)
    assert found[0].wire == 4 * 4 * 8 * 8
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(before, torch.get_rng_state())


def test_few_images_but_of_every_class_and_for_a_whole_batch():
    about = config.parse({"data": "digits"}).resolve()
    images = forecast._few(runs.load_images(about), about)
    assert (len(images.train), len(images.test)) == (forecast.TRAIN, forecast.TEST)
    assert images.train.labels.bincount().min() > forecast.PER_CLASS
    large = about.model_copy(update={"batch_size": 1000})
    assert len(protocol("train_time", forecast._few(images, large)).defender_train) <= 1000 < 1.2 * 1000


@pytest.mark.parametrize("late", ["patrol:180", "adversarial:weight=0.3,pretrain=30"])
def test_defenses_that_act_late_act_in_the_rehearsal(late):
    about = cell(defense=(late,), epochs=240).settings
    (spec,) = forecast.shortened(about).defense
    assert spec.make("defenses").acts_after == 1
    nothing = {"epoch": 0, "pretrain": 0}
    assert spec.parameters | nothing == about.defense[0].parameters | nothing


def test_what_would_stop_a_cell_is_named(small):
    bad = replace(cell(defense=("gaussian:0.1",), lr=1000, weight_decay=1e6), axes={"lr": 1000})
    with pytest.raises(UserError, match=r"^cell lr=1000: the loss is nan in epoch \d; lower lr"):
        forecast.rehearse(grid(bad))


def test_the_command_tries_and_keeps_nothing(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    base = "{data: digits, arch: resnet20_sgm, cut: 2, epochs: 240, defense: ['gaussian:0.1']}"
    path.write_text(f"base: {base}\nseeds: 2\nattacks: ['linear:looks=1']\n")
    main(["bench", str(path), "--dry-run"])
    shown = capsys.readouterr()
    assert "each of the 1 kinds of 2 cells was tried; nothing is kept" in shown.out + shown.err
    assert list(tmp_path.iterdir()) == [path]


def looped(now: list[float], images: int, epochs: int = 3, steps: int = 40) -> Tried:
    """An attack on so many images: epochs of batches of 10, with a look at every image after each; then fixed steps."""
    runtime, rng = Runtime(budget=Budget(steps=2)), torch.Generator()
    now[0] += 0.01 * images  # before any loop
    batches = images // 10
    loop = runtime.loop("epochs", epochs, {}, rng, per_round=batches)
    for _ in loop:
        for _ in loop.steps(range(batches)):
            now[0] += 1.0
        now[0] += 0.1 * images
    for _ in runtime.loop("steps", steps, {}, rng):
        now[0] += 5.0
    return Tried(runtime.loops, [], runtime.seconds, 2.0)


def test_an_attack_on_more_images_takes_what_grows_with_them(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("splitveil.runtime.time.perf_counter", lambda: now[0])
    few, fewer = looped(now, 100), looped(now, 50)
    assert few.seconds(batches=7) == pytest.approx(1 + 3 * (10 + 10) + 40 * 5 + 7 * 2)
    assert few.seconds(7, fewer, times=4) == pytest.approx(4 + 3 * (40 + 40) + 40 * 5 + 7 * 2)


# What is counted


@pytest.mark.parametrize("name", ["train_time", "inference_time", "auxiliary"])
def test_the_sizes_are_those_that_the_protocol_makes(name):
    real = protocol(name, load("digits", train_size=700, test_size=200))
    found = protocol_sizes(name, 700, 200)
    for part in ("defender_train", "utility_val", "utility_test", "attacker_test"):
        assert found[part] == len(getattr(real, part))
    # Digits hold a few images twice, which the protocol takes from the attacker.
    assert 0 <= found["attacker_train"] - len(real.attacker_train) < 5


def test_numbers_that_change_no_step_are_tried_once(measured):
    sweep = [cell(defense=(f"gaussian:{s}", f"cem:{w}"), seed=seed) for s in (1, 2) for w in (0, 4) for seed in (0, 1)]
    found = forecast.estimate(grid(*sweep, cell(defense=("gaussian:1",)), cell(batch_size=8)))
    assert [group.cells for group in found.groups] == [8, 1, 1]
    assert len(measured) == 3
    assert measured[0].settings.defense[1].parameters["weight"] == 4  # the one whose loss is computed
    assert [group.name for group in found.groups][:2] == [
        "digits resnet20_sgm/2 C4 gaussian+cem",
        "digits resnet20_sgm/2 C4 gaussian",
    ]


def test_a_paper_preset_has_few_kinds_and_needs_no_images(measured, monkeypatch):
    monkeypatch.setattr(image_sets, "random_images", lambda size: load("digits", **SIZES))
    seen: list[tuple[int, int]] = []
    preset = load_grid("paper/cifar100", root="nowhere")
    found = forecast.estimate(preset, progress=lambda *counts: seen.append(counts))
    assert seen == [(n, 5) for n in range(1, 6)]
    assert found.total("cells") == 28
    (note,) = [note for note in found.notes if "published size" in note]
    assert note.startswith("cifar100 is taken to have its published size: no cifar100 in ")
    with pytest.raises(UserError, match="no cifar100 in "):
        ImageSets().of(preset.cells[0].settings)  # what is tried for real has real images


def test_when_the_time_is_over_the_slowest_stands_for_the_rest(measured, monkeypatch):
    monkeypatch.setattr(forecast, "SECONDS", -1)
    found = forecast.estimate(grid(cell(defense=("gaussian:1",)), cell(batch_size=8), cell(batch_size=4)))
    assert len(measured) == 1
    assert {group.step for group in found.groups} == {0.5}
    assert found.notes[0] == "2 of 3 kinds were not tried; they are taken to be like the slowest one"


def test_threads_are_set_for_the_trial_alone(monkeypatch):
    seen: list[int] = []
    monkeypatch.setattr(forecast, "rehearse", lambda *_, **__: seen.append(torch.get_num_threads()) or {})
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="empty"):
        forecast.estimate(grid(cell()), threads=before + 1)
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_cells_that_are_done_take_nothing(measured, tmp_path, small):
    one, two = (cell(("nearest:neighbors=1,looks=1",), seed=seed, test_size=60) for seed in (0, 1))
    before = forecast.estimate(grid(one, two), tmp_path)
    run_cell(one, tmp_path)
    (tmp_path / "cells" / two.id).mkdir()  # begun
    after = forecast.estimate(grid(one, two), tmp_path)
    assert (before.total("done"), after.total("done"), after.total("cells")) == (0, 1, 2)
    assert after.hours == pytest.approx(before.hours / 2)
    assert after.total("disk") == before.total("disk") // 2
    nothing = forecast.estimate(grid(one), tmp_path)
    assert (nothing.hours, nothing.total("disk"), nothing.memory, nothing.total("done")) == (0, 0, 0, 1)
    # By its record a cell is done only as long as the grid asks for nothing more.
    for more in (replace(one, attacks={**one.attacks, "linear": spec("linear")}), replace(one, attacked=2)):
        assert more.id == one.id
        again = forecast.estimate(grid(more), tmp_path)
        assert (again.total("done"), again.groups[0].training) == (0, 0)  # but its network is there


def test_a_plan_does_not_let_attackers_have_more_images_than_there_are(measured):
    """Where the published size says nothing: a folder's images are counted when they are loaded."""
    wanted = cell(train_size=50, protocol="train_time", attacker_size=46)
    with pytest.raises(UserError, match=r"^attacker_size is 46, but under protocol train_time digits has 45 images"):
        forecast.estimate(grid(wanted))
    assert measured == []


def test_jobs_share_the_hours_and_add_their_memory(measured):
    cells = [cell(seed=seed) for seed in range(3)]
    one, three, ten = (forecast.estimate(grid(*cells), jobs=jobs) for jobs in (1, 3, 10))
    assert one.hours == pytest.approx(3 * three.hours)
    assert three.memory == 3 * one.memory > 3 * 5_000_000_000
    assert (ten.hours, ten.memory) == (three.hours, three.memory)  # there are only three


def test_rows_are_a_table_with_a_sum(measured):
    cells = [cell((LINEAR,), epochs=3600), cell((LINEAR,), batch_size=8, epochs=3600)]
    found = forecast.estimate(grid(*cells), jobs=2)
    *rows, last = found.rows()
    assert all(len(row) == len(forecast.COLUMNS) for row in [*rows, last])
    # 54 images of one second, 3600 times and 8 times for the retrained tail.
    assert [row[4] for row in found.rows()] == ["54", "54", "108"]
    assert found.hours == pytest.approx((54 * 3608 + 60) / 3600)
    assert last[:4] == ("all", "2", "0", "")
    assert last[-1] == f"{found.memory / 1e9:,.0f}"


def test_what_will_not_fit_is_said(measured, monkeypatch, tmp_path):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _: usage(100))
    monkeypatch.setattr(forecast.memory, "capacity", lambda device: 2_000_000_000)
    found = forecast.estimate(grid(cell()), tmp_path / "not" / "there")
    assert found.notes == (
        "the disk has 1e-07 GB free, and 1e-06 are needed",
        "there are 2 GB of memory, and 5 are needed; use fewer jobs",
    )
    assert not (tmp_path / "not").exists()


def test_a_busy_machine_is_said(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for load_average, said in ((2.0, False), (9.0, True)):
        monkeypatch.setattr(os, "getloadavg", lambda value=load_average: (value, 0, 0), raising=False)
        assert [note[:28] for note in forecast._busy()] == ["the machine is busy (load 9."] * said


def test_images_of_unknown_size_must_be_there(measured):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        forecast.estimate(grid(Cell(config.parse({"data": "folder:nowhere", "cut": 2}).resolve(), {})))


def test_sizes_are_those_of_the_images():
    sizes = ImageSets()
    assert sizes.size(settings(train_size=None, test_size=None)) == image_sets.PUBLISHED["digits"]
    assert sizes.size(settings()) == DatasetSize(60, 20, 10, 32) == image_sets.published(settings())


def test_the_key_of_a_workload_is_json_of_what_costs():
    told = json.loads(checks.workload_key(settings(defense=("adversarial:0.3",)).resolve()))
    assert told["defense"][0][0] == "adversarial"
    assert "weight" not in told["defense"][0][1]
    assert "share" in told["defense"][0][1]
    assert not {"lr", "seed", "epochs", "protocol", "train_size"} & told.keys()
