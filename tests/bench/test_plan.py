"""What a grid will take: counts against what really runs, shapes that are timed once, and what the notes say."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from splitveil import config
from splitveil.attacks.base import Victim
from splitveil.bench import _timing, plan, shapes
from splitveil.bench._timing import AttackCost, Cost
from splitveil.bench.cell import run_cell
from splitveil.bench.grid import Cell, Grid, load_grid
from splitveil.bench.plan import Parts
from splitveil.data import load, protocol
from splitveil.errors import UserError
from splitveil.recipe import batches
from splitveil.runtime import Budget, Runtime
from splitveil.training import trainer
from training_helpers import IMAGES, SIZES, fit, settings

CPU = torch.device("cpu")
COST = Cost(step=2.0, look=0.01, refit=0.001, disk=1000, memory=5, wire=8, features=True)


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
    """No step is timed: the settings of those that would have been; a step of 16 images takes a second, of 8 two."""
    calls: list[config.TrainConfig] = []

    def measure(settings: config.TrainConfig, *_: Any) -> Cost:
        calls.append(settings)
        return Cost(16 / settings.batch_size, 0.0, 0.0, 1000, 5_000_000_000, 8, False)

    monkeypatch.setattr(_timing, "measure", measure)
    monkeypatch.setattr(plan, "_busy", list)
    return calls


# What is counted


@pytest.mark.parametrize("name", ["train_time", "inference_time", "auxiliary"])
def test_the_parts_are_those_that_the_protocol_makes(name):
    real = protocol(name, load("digits", train_size=700, test_size=200))
    found = Parts.of(cell(protocol=name), shapes.Size(700, 200, 10, 32))
    counts = real.defender_train, real.utility_val, real.attacker_train, real.attacker_test
    # Digits hold a few images twice, which the protocol takes from the attacker.
    assert (found.train, found.validation, found.attacked) == (len(counts[0]), len(counts[1]), len(counts[3]))
    assert 0 <= found.attacker - len(counts[2]) < 5
    fewer = Parts.of(cell(protocol=name, attacker_size=11, attacked=7), shapes.Size(700, 200, 10, 32))
    assert (fewer.attacker, fewer.attacked) == (11, 7)


def test_hours_of_a_training():
    parts = Parts(shapes.PUBLISHED["digits"], 1293, 144, 324, 36)
    about = settings(epochs=3, batch_size=100)
    steps = len(batches(1293, 100, torch.Generator()))
    wanted = 3 * (2.0 * steps + 144 * 0.01 + 1293 * 0.001) + 360 * 0.01
    assert plan.training_seconds(about, parts, COST) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "decoder:epochs=3,batch_size=8",
        "gan:epochs=3,warm_epochs=2,batch_size=8,critic_steps=1",
        "gan:epochs=3,warm_epochs=2,batch_size=8,critic_steps=1,critic=published,warm_batch_size=16",
        "decoder:steps=96,patience=32,batch_size=8",
        "gan:steps=50,warm_steps=40,patience=16,batch_size=8,critic_steps=1",
    ],
)
def test_steps_of_an_attack_are_those_that_it_takes(text, small, monkeypatch):
    """Against the loops of the attack itself, begun and cut short by a budget."""
    monkeypatch.setattr(_timing, "FORWARD", 0)  # leaves only the steps
    about = spec(text.replace(":", ":network=conv_normN0C16,"))
    model, given = training_model(), protocol("inference_time", IMAGES)
    runtime = Runtime(budget=Budget(steps=1))
    about.make("attacks").fit(
        Victim(model, given.grants), given.attacker_train, torch.Generator().manual_seed(0), runtime
    )
    loops = {loop.name: loop.wanted for loop in runtime.loops}
    cost = AttackCost(step=1.0, critic=100.0, memory=0)
    refined = 8 / (about.parameters.get("warm_batch_size") or 8)
    wanted = loops["decoder"] + (100 + refined) * loops.get("gan", 0)  # one step of the generator for each critic step
    assert _timing.attack_seconds(about, cost, len(given.attacker_train), 500) == pytest.approx(wanted)


def training_model() -> Any:
    from splitveil import runs

    return runs.build_model(settings().resolve(), IMAGES)


def test_the_answer_costs_a_pass_forward():
    cost, about = AttackCost(step=3.0, critic=0.0, memory=0), spec("decoder:batch_size=50,epochs=1")
    assert _timing.attack_seconds(about, cost, 100, 500) - _timing.attack_seconds(about, cost, 100, 0) == pytest.approx(
        10
    )


# What is weighed and timed


def test_bytes_that_are_kept_for_going_back():
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    with _timing.weighed(network, CPU) as found:
        network(torch.rand(10, 8)).sum().backward()
    # The input and the activation, for the gradients of the weights; the second weights, saved too, are not counted.
    assert found() == _timing.SCRATCH * 4 * (10 * 8 + 10 * 16)


def test_the_disk_is_what_a_run_leaves(tmp_path, small):
    fit(tmp_path, epochs=2)
    files = [tmp_path / "model.safetensors", tmp_path / "checkpoint" / "last.pt"]
    size = shapes.Size(60, 20, 10, 32)
    found = _timing.measure(settings().resolve(), size, {}, _timing.Attackers())
    assert found.disk == pytest.approx(sum(file.stat().st_size for file in files), rel=0.03)
    assert found.wire == 4 * 4 * 8 * 8
    assert found.features  # CEM refits itself


def test_a_decoder_is_measured_once_for_all_attacks_and_defenses(small, monkeypatch):
    steps: list[str] = []
    real = _timing._Bench.decoder
    monkeypatch.setattr(_timing._Bench, "decoder", lambda bench: steps.append(bench.attack.network) or real(bench))
    texts = ("decoder:network=conv_normN0C16", "gan:network=conv_normN0C16,width=4")
    cells = [cell(texts, defense=("gaussian:0.1",)), cell(texts, defense=("dropout:0.1",))]
    found = plan.estimate(grid(*cells))
    assert steps == ["conv_normN0C16"]
    assert all(group.step > 0 and group.training > 0 and group.attacks > 0 for group in found.groups)
    assert found.memory > plan.PROCESS
    assert not [note for note in found.notes if "not in the hours" in note]


def test_timing_leaves_threads_and_random_state(small):
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    plan.estimate(grid(cell(defense=("dropout:0.1",))), threads=threads + 1)
    assert torch.get_num_threads() == threads
    assert torch.equal(before, torch.get_rng_state())


# Shapes


def test_numbers_that_change_no_step_are_timed_once(measured):
    sweep = [cell(defense=(f"gaussian:{s}", f"cem:{w}"), seed=seed) for s in (1, 2) for w in (0, 4) for seed in (0, 1)]
    found = plan.estimate(grid(*sweep, cell(defense=("gaussian:1",)), cell(batch_size=8)))
    assert [group.cells for group in found.groups] == [8, 1, 1]
    assert len(measured) == 3
    assert measured[0].defense[1].parameters["weight"] == 4  # the one whose loss is computed
    assert [group.name for group in found.groups][:2] == [
        "digits resnet20_sgm/2 C4 gaussian+cem",
        "digits resnet20_sgm/2 C4 gaussian",
    ]


def test_a_paper_preset_has_few_shapes(measured):
    seen: list[tuple[int, int]] = []
    found = plan.estimate(load_grid("paper/cifar100", root="nowhere"), progress=lambda *counts: seen.append(counts))
    assert seen == [(n, 5) for n in range(1, 6)]
    assert sum(group.cells for group in found.groups) == found.cells == 28
    (note,) = [note for note in found.notes if "published size" in note]
    assert note.startswith("cifar100 is taken to have its published size: no cifar100 in ")


def test_when_the_time_is_over_the_slowest_stands_for_the_rest(measured, monkeypatch):
    monkeypatch.setattr(plan, "SECONDS", -1)
    cells = [cell(defense=("gaussian:1",)), cell(batch_size=8), cell(batch_size=4)]
    found = plan.estimate(grid(*cells))
    assert len(measured) == 1
    assert {group.step for group in found.groups} == {1.0}
    assert found.notes[0] == "2 of 3 shapes were not timed; they are taken to be like the slowest one"


# The plan


def test_cells_that_are_done_take_nothing(measured, tmp_path, small):
    one, two = (cell(("nearest:neighbors=1,looks=1",), seed=seed, test_size=60) for seed in (0, 1))
    before = plan.estimate(grid(one, two), tmp_path)
    run_cell(one, tmp_path)
    (tmp_path / "cells" / two.id).mkdir()  # begun
    after = plan.estimate(grid(one, two), tmp_path)
    assert (before.done, after.done, after.cells) == (0, 1, 2)
    assert after.hours == pytest.approx(before.hours / 2)
    assert after.disk == before.disk // 2
    nothing = plan.estimate(grid(one), tmp_path)
    assert (nothing.hours, nothing.disk, nothing.memory, nothing.done) == (0, 0, 0, 1)
    # By its record a cell is done only as long as the grid asks for nothing more.
    for more in (replace(one, attacks={**one.attacks, "linear": spec("linear")}), replace(one, attacked=2)):
        assert more.id == one.id
        again = plan.estimate(grid(more), tmp_path)
        assert (again.done, again.groups[0].training) == (0, 0)  # but its network is there


def test_a_plan_does_not_let_attackers_have_more_images_than_there_are(measured, tmp_path):
    """Where the published size says nothing: a folder's images are counted when they are loaded."""
    wanted = cell(train_size=50, protocol="train_time", attacker_size=46)
    with pytest.raises(UserError, match=r"^attacker_size is 46, but under protocol train_time digits has 45 images"):
        plan.estimate(grid(wanted))
    assert measured == []


def test_jobs_share_the_hours_and_add_their_memory(measured):
    cells = [cell(seed=seed) for seed in range(3)]
    one, three, ten = (plan.estimate(grid(*cells), jobs=jobs) for jobs in (1, 3, 10))
    assert one.hours == pytest.approx(3 * three.hours)
    assert three.memory == 3 * one.memory > 3 * 5_000_000_000
    assert (ten.hours, ten.memory) == (three.hours, three.memory)  # there are only three


def test_rows_are_a_table_with_a_sum(measured):
    cells = [cell(("linear",), epochs=3600), cell(("linear",), batch_size=8, epochs=3600)]
    found = plan.estimate(grid(*cells), jobs=2)
    *rows, last = found.rows()
    assert all(len(row) == len(plan.COLUMNS) for row in [*rows, last])
    # 54 images: 4 steps of 16 at 1 s, 7 of 8 at 2 s, 3600 times.
    assert [row[4] for row in found.rows()] == ["4", "14", "18"]
    assert found.hours == pytest.approx(9 + 8 * (4 + 7 * 2) / 2 / 3600)  # and eight epochs for each retrained tail
    assert last[:4] == ("all", "2", "0", "")
    assert last[-1] == f"{found.memory / 1e9:,.0f}"
    assert "not in the hours: the attacks linear" in found.notes


def test_what_will_not_fit_is_said(measured, monkeypatch, tmp_path):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(plan.shutil, "disk_usage", lambda _: usage(100))
    monkeypatch.setattr(plan.memory, "capacity", lambda device: 2_000_000_000)
    found = plan.estimate(grid(cell()), tmp_path / "not" / "there")
    assert found.notes == (
        "the disk has 1e-07 GB free, and 1e-06 are needed",
        "there are 2 GB of memory, and 5.8 are needed; use fewer jobs",
    )
    assert not (tmp_path / "not").exists()


def test_a_busy_machine_is_said(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for load_average, said in ((2.0, False), (9.0, True)):
        monkeypatch.setattr(os, "getloadavg", lambda value=load_average: (value, 0, 0), raising=False)
        assert [note.startswith(f"the machine is busy (load {load_average} on 4 cores)") for note in plan._busy()] == [
            True
        ] * said


def test_images_of_unknown_size_must_be_there(measured):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        plan.estimate(grid(Cell(config.parse({"data": "folder:nowhere", "cut": 2}).resolve(), {})))


def test_sizes_are_those_of_the_images(measured):
    found = plan.estimate(grid(cell(train_size=None, test_size=None), cell(**SIZES)))
    assert found.cells == 2
    sizes = plan._Sizes([])
    assert sizes.of(settings(train_size=None, test_size=None)) == shapes.PUBLISHED["digits"]
    assert sizes.of(settings()) == shapes.Size(60, 20, 10, 32) == shapes.published(settings())


def test_the_shape_of_a_training_is_json_of_what_costs():
    told = json.loads(shapes.shape(settings(defense=("adversarial:0.3",)).resolve()))
    assert told["defense"][0][0] == "adversarial"
    assert "weight" not in told["defense"][0][1]
    assert "share" in told["defense"][0][1]
    assert not {"lr", "seed", "epochs", "protocol", "train_size"} & told.keys()


def test_steps_are_those_of_the_training_loop(small, tmp_path):
    """The number of steps per epoch that the hours are computed with is what the loop reports."""
    taken: list[int] = []
    trainer.fit(settings(epochs=2), IMAGES, tmp_path / "run", progress=lambda _, done, __: taken.append(done))
    parts = Parts.of(cell(epochs=2), shapes.Size(60, 20, 10, 32))
    free = Cost(step=1.0, look=0.0, refit=0.0, disk=0, memory=0, wire=8, features=False)
    assert plan.training_seconds(settings(epochs=2), parts, free) == max(taken)
