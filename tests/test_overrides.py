"""Flags over the settings of a file, and axes over the base of a grid: what follows from them follows anew."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from commands import answer
from splitveil import config, recipe
from splitveil.bench import grid_file
from splitveil.errors import UserError
from splitveil.overrides import over
from splitveil.training import trainer

WRITTEN: list[dict[str, Any]] = [{"recipe": name, **more} for name in recipe.RECIPES for more in ({}, {"epochs": 1})]
OWN: list[dict[str, Any]] = [
    {},
    {"lr": 0.07},
    {"warmup_epochs": 0.7},
    {"batch_size": 32, "rotate": 3.0, "label_smoothing": 0.05},
    {"warmup_epochs": 2.5, "lr": 0.3, "momentum": 0.8},
]
"""Settings that are the defaults of no recipe: a chosen one that is cannot be told from one that nobody chose."""
GIVEN: list[dict[str, Any]] = [
    {"recipe": "fast"},
    {"recipe": "published"},
    {"epochs": 1},
    {"epochs": 12},
    {"recipe": "fast", "epochs": 5},
    {"recipe": "fast", "lr": 0.4},
    {"warmup_epochs": 1.0},
    {"warmup_epochs": 2.0},
]


def parsed(**values: Any) -> config.TrainConfig:
    return config.parse({"data": "digits", "arch": "resnet20_sgm", "cut": 2, **values}).resolve()


def file_of(folder: Path, **values: Any) -> Path:
    """Write the config.yaml of a run with these settings, which names every setting."""
    path = folder / "config.yaml"
    path.write_text(config.dump(parsed(**values), splitveil="1.0"), encoding="utf-8")
    return path


@pytest.mark.parametrize(("written", "own", "given"), list(product(WRITTEN, OWN, GIVEN)), ids=str)
def test_a_run_s_file_with_settings_over_it_is_what_was_chosen_with_them_over_it(tmp_path, written, own, given):
    values = config.load(file_of(tmp_path, **written, **own))
    assert config.parse(over(values, given)).resolve() == parsed(**(written | own | given))


@pytest.mark.parametrize(("written", "own"), list(product(WRITTEN, OWN)), ids=str)
@pytest.mark.parametrize("given", [{}, {"seed": 4}, {"lr": 0.2}, {"network_dropout": False}], ids=str)
def test_other_settings_over_a_run_s_file_change_nothing_else(tmp_path, written, own, given):
    values = config.load(file_of(tmp_path, **written, **own))
    assert over(values, given) == values | given


def test_a_short_training_from_a_run_s_file_has_a_rate_that_falls(tmp_path):
    found = config.parse(over(config.load(file_of(tmp_path, recipe="fast")), {"epochs": 1}))
    assert (found.warmup_epochs, found.lr) == (0.5, 0.1)
    assert recipe.learning_rate(found, 0.9) < recipe.learning_rate(found, 0.5)


@pytest.mark.parametrize("epochs", ["1", 1.0, "1.0", 1])
def test_epochs_are_a_number_before_they_are_used(epochs):
    assert parsed(recipe="fast", epochs=epochs) == parsed(recipe="fast", epochs=1)
    assert parsed(recipe="fast", epochs=epochs).warmup_epochs == 0.5


@pytest.mark.parametrize("epochs", [12, 3])
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epochs": 4}, {"recipe": "fast", "epochs": 4, "warmup_epochs": 2.0, "lr": pytest.approx(0.4 / 3)}),
        ({"epochs": 24}, {"recipe": "fast", "epochs": 24, "warmup_epochs": 3.0, "lr": 0.2}),
        ({"recipe": "published"}, {"recipe": "published", "warmup_epochs": 1.0, "lr": 0.05}),
    ],
    ids=str,
)
def test_a_fast_run_of_before_keeps_what_it_did_not_name(tmp_path, epochs, given, expected):
    """Such a file was written by splitveil 0.1: it names no optimizer, and the rate rose for three epochs."""
    old = {"network_dropout": True, "unit_variance": False, "optimizer": "sgd"}
    short = {"warmup_epochs": 3.0, "lr": 0.2} if epochs == 12 else {"warmup_epochs": 1.5, "lr": 0.1}
    file = file_of(tmp_path, recipe="fast", epochs=epochs, **short, **old)
    values = {key: value for key, value in config.load(file).items() if key not in recipe.LATER}
    found = config.parse(over(values, given)).model_dump()
    assert {key: found[key] for key in (*old, *expected)} == {**old, **expected}


def test_a_wrong_value_of_a_file_may_be_replaced(tmp_path):
    values = config.load(file_of(tmp_path, recipe="fast")) | {"epochs": 0}
    assert config.parse(over(values, {"epochs": 3})).epochs == 3


@pytest.mark.parametrize("given", [{"recipe": "fast"}, {"epochs": 3}, {"data": "digits"}], ids=str)
def test_what_somebody_wrote_into_a_file_of_some_settings_stays(given):
    values = {"data": "cifar10", "recipe": "published", "lr": 0.05, "epochs": 240, "flip": True}
    assert over(values, given) == values | given


def test_the_file_of_a_run_of_the_first_version_follows_too(tmp_path):
    file = config.load(file_of(tmp_path))
    later = ("recipe", "nesterov", "bias_lr", "label_smoothing", "schedule", "alternate_flip", "choose", *recipe.LATER)
    values = {key: value for key, value in file.items() if key not in later}
    assert config.parse(over(values, {"recipe": "fast"})) == parsed(recipe="fast")


def test_other_images_are_augmented_and_found_as_is_usual_for_them(tmp_path):
    values = config.load(file_of(tmp_path, data="cifar10"))
    assert (values["crop_padding"], values["flip"], Path(values["root"])) == (4, True, Path("data").absolute())
    found = config.parse(over(values, {"data": "digits"})).resolve()
    assert (found.crop_padding, found.flip, found.root) == (2, False, None)
    own = values | {"crop_padding": 3, "flip": False, "root": "/images"}
    found = config.parse(over(own, {"data": "cifar100"})).resolve()
    assert (found.crop_padding, found.flip, found.root) == (3, False, Path("/images"))


def test_train_takes_another_recipe_over_the_file_of_a_run(tmp_path, monkeypatch):
    taken = []

    def fit(settings, *args, **more):
        taken.append(settings)
        raise UserError("enough")

    monkeypatch.setattr(trainer, "fit", fit)
    command = ["train", "--config", str(file_of(tmp_path, seed=5)), "--out", str(tmp_path / "run")]
    for flags in ([], ["--recipe", "fast"], ["--recipe", "fast", "--epochs", "3"]):
        assert answer(*command, *flags) == (2, "splitveil: enough\n")
    assert taken == [
        parsed(seed=5),
        parsed(seed=5, recipe="fast"),
        parsed(seed=5, recipe="fast", epochs=3),
    ]


def test_the_axes_of_a_grid_lie_over_the_file_of_a_run_as_flags_do(tmp_path):
    base = config.load(file_of(tmp_path, recipe="published"))
    values = {"base": base, "grid": {"recipe": ["published", "fast"]}, "include": [{"recipe": "fast", "epochs": 3}]}
    found = [config.parse(row.settings).resolve() for row in grid_file.read(values).rows()]
    assert found == [parsed(), parsed(recipe="fast"), parsed(recipe="fast", epochs=3)]
    values = {"base": {**config.load(file_of(tmp_path, recipe="fast")), "epochs": [3, 12]}}
    found = [config.parse(row.settings).resolve() for row in grid_file.read(values).rows()]
    assert found == [parsed(recipe="fast", epochs=3), parsed(recipe="fast")]
    values = {"base": {**base, "recipe": "fast", "epochs": "{e}"}, "grid": {"e": [3]}}
    assert [row.settings["epochs"] for row in grid_file.read(values).rows()] == [3]
