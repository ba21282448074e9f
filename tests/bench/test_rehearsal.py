"""Rehearsals: each kind of cell is tried once, whatever stops it is found, and nothing is left."""

from __future__ import annotations

import pytest

from splitveil import config, runs
from splitveil.bench import rehearsal
from splitveil.bench.grid import Cell, Grid
from splitveil.cli import main
from splitveil.errors import UserError
from training_helpers import settings

ATTACKS = {
    "linear": config.Spec.model_validate("linear:looks=1").resolve("attacks"),
    "decoder": config.Spec.model_validate("decoder:epochs=900,network=res_normN1C16").resolve("attacks"),
}


def cell(*defense: str, **values: object) -> Cell:
    about = settings(**{"train_size": None, "test_size": None, "epochs": 240, "defense": defense, **values}).resolve()
    return Cell(about, ATTACKS, axes={"defense": list(defense)})


def test_each_kind_is_tried_once_with_what_acts(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[int, int]] = []
    cells = [cell("gaussian:0.1", f"cem:{weight}", seed=seed) for weight in (0, 16) for seed in (0, 1)]
    tried: list[config.TrainConfig] = []
    real = rehearsal.fit
    monkeypatch.setattr(rehearsal, "fit", lambda about, *rest: (tried.append(about), real(about, *rest)))
    found = rehearsal.rehearse(Grid("g", "", (*cells, cell())), lambda *done: seen.append(done))
    assert [(kind.cells, kind.attacks) for kind in found] == [(4, ("linear", "decoder")), (1, ("linear", "decoder"))]
    assert seen == [(1, 2), (2, 2)]
    assert tried[0].defense[1].parameters["weight"] == 16
    assert all(about.epochs == rehearsal.EPOCHS for about in tried)
    assert list(tmp_path.iterdir()) == []


def test_few_images_but_of_every_class():
    images = rehearsal._few(runs.load_images(config.parse({"data": "digits"}).resolve()))
    assert (len(images.train), len(images.test)) == (rehearsal.TRAIN, rehearsal.TEST)
    assert images.train.labels.bincount().min() > rehearsal.PER_CLASS


@pytest.mark.parametrize("late", ["patrol:180", "adversarial:weight=0.3,pretrain=30"])
def test_defenses_that_act_late_act_in_the_rehearsal(late):
    (spec,) = rehearsal.shortened(cell(late).settings).defense
    assert spec.make("defenses").acts_after == 1
    assert spec.parameters | {"epoch": 0, "pretrain": 0} == cell(late).settings.defense[0].parameters | {
        "epoch": 0,
        "pretrain": 0,
    }


def test_what_would_stop_a_cell_is_named(small):
    with pytest.raises(UserError, match=r"^cell defense=\['gaussian:0.1'\]: the loss is nan in epoch 0; lower lr"):
        rehearsal.rehearse(Grid("g", "", (cell("gaussian:0.1", lr=1000, weight_decay=1e6),)))


def test_the_command_tries_and_keeps_nothing(small, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.yaml"
    base = "{data: digits, arch: resnet20_sgm, cut: 2, epochs: 240, defense: ['gaussian:0.1']}"
    path.write_text(f"base: {base}\nseeds: 2\nattacks: ['linear:looks=1']\n")
    main(["bench", str(path), "--dry-run"])
    shown = capsys.readouterr()
    assert "each of the 1 kinds of 2 cells was tried; nothing is kept" in shown.out + shown.err
    assert list(tmp_path.iterdir()) == [path]
