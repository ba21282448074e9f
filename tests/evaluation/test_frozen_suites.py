"""The frozen suites and presets: none changes, each can be made, and old ones name the suite that took their place."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import Any

import pytest

import splitveil as sv
from splitveil.attacks import (
    _averaged,
    _correction,
    _held_out,
    _moved,
    _muon,
    _plateau,
    diffusion,
    gan,
    latent,
    linear,
    refine,
    rmle,
)
from splitveil.attacks import map as map_
from splitveil.attacks.decoder import DecoderAttack
from splitveil.audit import run as audits
from splitveil.config import Spec
from splitveil.data import Access
from splitveil.evaluation import suites
from splitveil.nn import orthogonal
from splitveil.registry import Registry

LATER = {
    "gan": {"critic": "plain", "critic_lr": None, "cosine": None, "evaluation": False, "warm_batch_size": None}
    | {"steps": None, "warm_steps": None, "patience": 800},
    "decoder": {"steps": None, "patience": 800},
    "diffusion": {"start_steps": None, "patience": 800},
}
"""Parameters that attacks gained after a suite was frozen, at the values with which they are what they were."""
FROZEN = {
    "standard-v1": "5893560af21294dd",
    "standard-v2": "e12a580c01821893",
    "smoke-v1": "a9d722d13e85a3eb",
    "quick-v1": "8ed6cbba929f90b3",
    "quick-v2": "df07b34d6f99360a",
}
FROZEN |= {"standard-v3": FROZEN["standard-v2"], "quick-v3": FROZEN["quick-v2"]}
FROZEN |= {"standard-v4": "4ccedd7a22d5056a", "quick-v4": "4501e3960d8d3f4d"}


def as_frozen(spec: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the parameters that came later, where these leave the attack what it was."""
    ((name, parameters),) = spec.items()
    later = LATER.get(name, {})
    return {name: {k: v for k, v in parameters.items() if k not in later or v != later[k]}}


@pytest.mark.parametrize("name", suites.SUITES)
def test_a_published_suite_does_not_change(name):
    """Figures are quoted by the suite's name. Where this fails, make a new version instead of changing the old one."""
    resolved = [spec.resolve("attacks").model_dump() for spec in suites.SUITES[name]]  # with defaults
    specs = [as_frozen(spec) for spec in resolved]
    constants = [
        rmle.TV_WEIGHTS,
        rmle.L2_WEIGHTS,
        rmle.SPREAD,
        [10.0**power for power in linear.RIDGES],
        _held_out.HELD_OUT,
        gan.BETAS,
        latent.PIXEL_NOISE,
        map_.WEIGHTS,
        map_.LEAST_NOISE,
        diffusion.RATES,
    ]
    if not name.endswith("-v1"):
        constants += [_plateau.CHECKS, _plateau.LEAST_FALL, _plateau.CUT, _plateau.LEAST_GAIN, _plateau.FLOOR]
        constants += [refine.WEIGHTS, refine.LEAST_NOISE, refine.EXACT]
        start = inspect.signature(DecoderAttack).parameters  # of `diffusion`, which names but its steps
        constants += [start[key].default for key in ("network", "lr", "weight_decay", "batch_size")]
    if name.endswith("-v4"):
        constants += [_correction.BLOCKS, _correction.NARROWEST, _averaged.ADAM, _averaged.WARM, _averaged.WINDOW]
        constants += [_muon.MOMENTUM, orthogonal.COEFFICIENTS, orthogonal.STEPS]
        constants += [_moved.COARSE, _moved.MOST, _moved.FEWEST, _moved.RIDGE, _moved.ALIKE]
        constants += [inspect.signature(linear.LinearAttack).parameters["looks"].default]  # of its linear answer
    written = [spec.model_dump() for spec in suites.SUITES[name]]
    assert written in (resolved, specs)  # no default is hidden
    text = json.dumps([specs, constants], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == FROZEN[name]


@pytest.mark.parametrize("name", suites.SUITES)
def test_a_suite_is_made_of_attacks_that_exist(name):
    labels = suites.labels(suites.SUITES[name])
    assert all(label.replace("-", "").replace("_", "").isalnum() for label in labels)
    for spec in labels.values():
        spec.make("attacks")


@pytest.mark.parametrize("spec", suites.PRESETS.values(), ids=list(suites.PRESETS))
def test_presets_are_attacks(spec):
    spec.make("attacks")


def test_the_decoder_of_ressfl_is_the_one_that_its_script_has():
    assert suites.PRESETS["ressfl/decoder"].parameters["network"] == "custom_released"


def test_a_superseded_suite_has_an_heir_that_exists():
    for old, new in suites.SUPERSEDED.items():
        assert old in suites.SUITES
        assert new in suites.SUITES
        assert suites.SUITES[new] != suites.SUITES[old]
        assert new not in suites.SUPERSEDED
    assert FROZEN.keys() - suites.SUPERSEDED.keys() == {"smoke-v1", "standard-v4", "quick-v4"}


def test_what_is_taken_without_a_choice_is_superseded_by_nothing():
    taken = {inspect.signature(one).parameters["suite"].default for one in (sv.evaluate, sv.privacy_card)}
    assert {*taken, audits.SUITE} == {"quick-v4"}
    assert "attack with quick-v4" in suites.hasty("smoke-v1")[0]


@pytest.mark.parametrize("kind", ["standard", "quick"])
def test_the_fourth_version_is_the_second_with_the_residual(kind):
    second, fourth = (suites.named(f"{kind}-v{version}") for version in (2, 4))
    assert {label: fourth.pop(label) for label in second} == second
    assert list(fourth) == ["residual"]
    assert f"{kind}-v4" in suites.LINKED
    default = Spec(name="residual").resolve("attacks").parameters
    assert fourth["residual"].parameters == default | ({"epochs": 30} if kind == "standard" else {})


@pytest.mark.parametrize("name", ["standard-v2", "quick-v2", "standard-v4", "quick-v4"])
def test_since_the_second_suites_one_training_of_the_decoder_serves_all_that_begin_with_it(name):
    labels = suites.labels(suites.SUITES[name])
    first: DecoderAttack = labels["decoder"].make("attacks")
    for label in {"gan", "diffusion", "refine"} & set(labels):
        attack = labels[label].make("attacks")
        start = attack.warm if label == "gan" else attack._first
        assert vars(start) == vars(first)


def test_suites_use_every_kind_of_access():
    needs = set().union(*(Registry("attacks").get(spec.name).needs for spec in suites.SUITES["standard-v1"]))
    assert needs == {Access.QUERY, Access.WEIGHTS, Access.LOGITS}
    assert isinstance(suites.SUITES["quick-v1"][0], Spec)
