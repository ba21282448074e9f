"""Attacks that cannot take a wire: refused, or left out of a suite, before any work begins."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splitveil import config, runs
from splitveil.attacks.base import Attack
from splitveil.bench.cell import run_cell
from splitveil.bench.cells import Cell
from splitveil.bench.folder import GridFolder
from splitveil.cli import main
from splitveil.data import load
from splitveil.errors import UserError, WireError
from splitveil.evaluation import evaluate, stage, suites
from splitveil.registry import Registry
from splitveil.training import trainer
from splitveil.zoo import Parts

SIZES: dict[str, Any] = {"train_size": 60, "test_size": 40}
IMAGES = load("digits", **SIZES)
SHAPES = {"tokens": (64, 6), "vector": (384,), "maps": (6, 8, 8), "film": (6, 2, 4, 8)}


class Shaped(nn.Module):
    """A convolution whose output is laid out as another shape."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.conv, self.shape = nn.Conv2d(3, 6, 4, stride=4), shape

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(len(x), *self.shape)


def trained(shape: str, folder, monkeypatch, encoder: nn.Module | None = None) -> runs.Run:
    def build(*_: Any, classes: int, **__: Any) -> Parts:
        return Parts(encoder or Shaped(SHAPES[shape]), nn.Sequential(nn.Flatten(), nn.Linear(384, classes)))

    monkeypatch.setattr(runs.zoo, "build", build)
    values = {"data": "digits", **SIZES, "epochs": 1, "precision": "32-true", "protocol": "train_time"}
    trainer.fit(config.parse(values), IMAGES, folder)
    return runs.Run.open(folder)


@pytest.fixture
def idle(monkeypatch):
    """No attack may begin."""
    for name in Registry("attacks").names():
        monkeypatch.setattr(Registry("attacks").get(name), "fit", lambda *_: pytest.fail("an attack began"))


REFUSED = {
    "shadow": ("tokens", r"shadow: the wire is \(64, 6\); expected a feature map"),
    "shadow:steps=3": ("vector", r"shadow: the wire is \(384,\); expected a feature map"),
    "decoder": ("film", r"decoder res_normN8C64 cannot turn features \(6, 2, 4, 8\)"),
    "gan": ("film", r"decoder res_normN8C64 cannot turn features"),
    "rmle:start=decoder": ("film", r"decoder res_normN8C64 cannot turn features"),
    "diffusion:start=decoder": ("film", r"decoder res_normN8C64 cannot turn features"),
    "map:start=decoder": ("film", r"decoder res_normN8C64 cannot turn features"),
    "residual": ("tokens", r"residual: the wire is \(64, 6\) for images of 32 pixels; expected a feature map"),
    "residual:epochs=3": ("vector", r"residual: the wire is \(384,\) for images of 32 pixels"),
    "residual:epochs=4": ("film", r"residual: the wire is \(6, 2, 4, 8\) for images of 32 pixels"),
    "decoder:network=res_normN8C9999": ("maps", "channels is 9999; expected a whole number"),
}


@pytest.mark.parametrize("attack", REFUSED)
@pytest.mark.usefixtures("idle")
def test_an_attack_that_cannot_take_the_wire_is_refused_before_work(attack, tmp_path, monkeypatch, capsys):
    shape, expected = REFUSED[attack]
    run = trained(shape, tmp_path / "run", monkeypatch)
    spec = config.Spec.model_validate(attack)
    with pytest.raises(UserError, match=expected):
        evaluate.evaluate(run, spec, IMAGES, protocol_name="train_time")
    # Of several attacks, none begins where one cannot be made.
    for more in ([], ["--dry-run"]):
        with pytest.raises(SystemExit) as stop:
            main(["attack", str(run.path), "--attack", "linear", "--attack", attack, *more])
        assert stop.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not (run.path / "attacks").exists()


@pytest.mark.parametrize(("shape", "left_out"), [("tokens", ["shadow"]), ("maps", []), ("film", ["shadow", "decoder"])])
def test_a_suite_leaves_out_what_cannot_take_the_wire(shape, left_out, tmp_path, monkeypatch, capsys):
    texts = ["shadow:steps=1,epochs=1,network=custom,batch_size=8", "linear:looks=1", "decoder:epochs=1,network=custom"]
    monkeypatch.setitem(suites.SUITES, "tiny-v1", suites.specs(*texts))
    run = trained(shape, tmp_path / "run", monkeypatch)
    main(["attack", str(run.path), "--suite", "tiny-v1", "--attacked", "4", "--dry-run"])
    rehearsed = capsys.readouterr().out
    main(["attack", str(run.path), "--suite", "tiny-v1", "--attacked", "4"])
    shown = capsys.readouterr().out
    summary = json.loads((run.path / "attacks" / "suite-tiny-v1.json").read_text())
    assert list(summary["skipped"]) == left_out
    assert set(summary["attacks"]) == {"shadow", "linear", "decoder"} - set(left_out)
    for label in left_out:
        assert summary["skipped"][label].startswith(f"{label}")
        assert f"left out: {label}: {label}" in rehearsed
        assert f"left out: {label}: {label}" in shown


@pytest.mark.usefixtures("idle")
def test_a_suite_of_which_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setitem(suites.SUITES, "tiny-v1", suites.specs("shadow:steps=1", "decoder:epochs=1"))
    run = trained("film", tmp_path / "run", monkeypatch)
    with pytest.raises(UserError, match=r"no attack of tiny-v1 can be made under protocol train_time: shadow: .*dec"):
        suites.run_suite(run, "tiny-v1", IMAGES, protocol_name="train_time")


@pytest.mark.parametrize("name", suites.SUITES)
@pytest.mark.parametrize("wire", [(8, 8, 8), (5, 192), (197, 768), (10,), (3, 1, 1)])
def test_frozen_suites_take_maps_and_all_but_one_attack_tokens_and_vectors(name, wire):
    for label, spec in suites.named(name).items():
        maps_only = label == "residual" and len(wire) < 3
        with pytest.raises(WireError) if maps_only else contextlib.nullcontext():
            spec.make("attacks").check(wire, 32)


FEW = ("nearest:looks=1", "decoder:epochs=1,network=custom", "linear:looks=1", "residual:epochs=1,channels=8")
LEAST = {"nearest": 1, "decoder": 3, "linear": 5, "residual": 6}


@pytest.mark.parametrize("count", range(2, 7))
def test_a_suite_leaves_out_what_needs_more_images_than_the_attacker_has(count, tmp_path, monkeypatch):
    monkeypatch.setitem(suites.SUITES, "tiny-v1", suites.specs(*FEW))
    run, terms = trained("maps", tmp_path / "run", monkeypatch), {"protocol_name": "train_time", "attacked": 4}
    found = suites.run_suite(run, "tiny-v1", IMAGES, attacker_size=count, **terms)
    few = {name: least for name, least in LEAST.items() if least > count}
    assert found["skipped"] == {
        name: f"the attacker has {count} images; expected at least {least}" for name, least in few.items()
    }
    assert found["attacks"].keys() == LEAST.keys() - few.keys()


def test_a_suite_leaves_out_what_cannot_take_oblong_maps_of_square_images(tmp_path, monkeypatch):
    """Their shorter side fits, and only that is known to `check`."""
    monkeypatch.setitem(suites.SUITES, "tiny-v1", suites.specs("linear:looks=1", "residual:epochs=1,channels=8"))
    run = trained("", tmp_path / "run", monkeypatch, nn.Conv2d(3, 6, (2, 8), stride=(2, 8)))
    found = suites.run_suite(run, "tiny-v1", IMAGES, protocol_name="train_time", attacked=4)
    assert list(found["attacks"]) == ["linear"]
    assert found["skipped"]["residual"].startswith("residual: the wire is (6, 16, 4) for images of 32×32 pixels")


def test_small_images_are_no_wire_of_the_published_critic():
    with pytest.raises(WireError, match="published critic got images of 16 pixels"):
        suites.PRESETS["published/gan"].make("attacks").check((8, 4, 4), 16)
    with pytest.raises(WireError, match="deep_prior: the images have 4 pixels"):
        config.Spec.model_validate("deep_prior").make("attacks").check((8, 4, 4), 4)


def test_a_shape_that_the_defense_changes_is_what_counts(tmp_path, monkeypatch):
    class Flat(nn.Module):
        def on_wire(self, z: Tensor, rng: torch.Generator) -> Tensor:
            return z.flatten(1)

    run = trained("maps", tmp_path / "run", monkeypatch)
    model = run.model(IMAGES)
    assert stage.wire_shape(model, IMAGES.test) == (6, 8, 8)
    model.defense = Flat()
    assert stage.wire_shape(model, IMAGES.test) == (384,)


@pytest.mark.usefixtures("idle")
def test_a_cell_is_refused_before_its_training(tmp_path, monkeypatch):
    def build(*_: Any, classes: int, **__: Any) -> Parts:
        return Parts(Shaped(SHAPES["tokens"]), nn.Sequential(nn.Flatten(), nn.Linear(384, classes)))

    monkeypatch.setattr(runs.zoo, "build", build)
    about = config.parse({"data": "digits", **SIZES, "epochs": 1}).resolve()
    shadow: dict[str, config.Spec] = {"shadow": config.Spec.model_validate("shadow").resolve("attacks")}
    one = Cell(about, shadow)
    with pytest.raises(WireError, match="shadow: the wire is"):
        run_cell(one, tmp_path)
    assert not GridFolder(tmp_path).run(one.id).exists()


def test_an_attack_asks_those_that_it_holds():
    class Outer(Attack):
        def __init__(self) -> None:
            self.first = config.Spec.model_validate("shadow").make("attacks")

        def fit(self, *_: Any) -> None: ...

        def reconstruct(self, wire: Tensor, y: Tensor | None = None) -> Tensor:
            return wire

    Outer().check((8, 4, 4), 32)
    with pytest.raises(WireError, match="shadow"):
        Outer().check((8, 4), 32)
