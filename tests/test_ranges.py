"""Numbers of plug-ins: whatever is written, it is taken or refused with one line, before anything is built."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import torch

from splitveil import data, ranges, zoo
from splitveil.cli import main
from splitveil.config import Spec
from splitveil.errors import UserError
from splitveil.registry import Registry
from splitveil.zoo import decoders

NEVER = (math.nan, math.inf, -math.inf, 1e300, 10**12, -(10**12), 10**5000)
"""Refused by every number of a plug-in, but `10**12` of images."""


def numbers(kind: str) -> list[tuple[str, str]]:
    """Every number of every plug-in: (name, parameter)."""
    found = []
    for name in Registry(kind).names():
        for key, parameter in ranges.declared(Registry(kind).get(name)).items():
            if parameter and {int, float}.intersection(parameter.kinds):
                found.append((name, key))
    return found


SPECS = [(kind, *one) for kind in ("attacks", "defenses") for one in numbers(kind)]


def refused(call: Any, key: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    assert len(said) < 300
    assert key in said
    assert "; expected a" in said


@pytest.mark.parametrize(("kind", "name", "key"), SPECS)
def test_every_number_is_taken_or_refused_in_one_line(kind, name, key):
    plugin = Registry(kind).get(name)
    for value in (0, -1, 0.0, -0.5, 1e-300):
        with contextlib.suppress(UserError):
            Spec(name=name, parameters={key: value}).make(kind)
        with contextlib.suppress(UserError):
            plugin(**{key: value})
    declared = ranges.declared(plugin)[key]
    assert declared is not None
    for value in NEVER:
        if declared.bounds.get("le", 0) >= 1e30 and isinstance(value, int | float) and 0 < value <= 1e30:
            continue  # computed from a model, and not typed by anybody
        refused(lambda value=value: Spec(name=name, parameters={key: value}).make(kind), key)
        refused(lambda value=value: plugin(**{key: value}), key)


def test_no_number_escapes_the_contract():
    assert len(SPECS) > 100
    assert ("attacks", "rmle", "tv") in SPECS  # may be null
    assert ("attacks", "decoder", "lr") in SPECS  # has a range of its own
    assert ("defenses", "local_dp", "low") in SPECS  # has none


@pytest.mark.parametrize(("name", "key"), [one for one in numbers("zoo") if one[1] != "cut" and ":" not in one[0]])
def test_every_number_of_a_network(name, key):
    build: Any = zoo.build
    good = {"cut": 1, "classes": 2, "image_size": 32}
    for value in (*NEVER, 0, -1):
        refused(lambda value=value: build(name, **(good | {key: value})), key)
        refused(lambda value=value: Registry("zoo").get(name)(name, **(good | {key: value})), key)


@pytest.mark.parametrize(("name", "key"), numbers("zoo.decoders"))
def test_every_number_of_a_decoder(name, key):
    good: dict[str, Any] = {"feature_shape": (2, 4, 4), "image_shape": (3, 8, 8)}
    good |= {} if name.startswith("custom") else {"blocks": 1, "channels": 2}
    for value in (*NEVER, -1):
        refused(lambda value=value: Registry("zoo.decoders").get(name)(**(good | {key: value})), key)


def test_the_size_of_the_images_of_a_decoder():
    value: Any
    for value in (*NEVER, 0, -1):
        for size in (value, (3, value, 8), (1, 8, value)):
            refused(lambda size=size: decoders.build("custom", feature_shape=(2, 4, 4), image_size=size), "image_size")


@pytest.mark.parametrize(("name", "key"), numbers("data"))
def test_every_number_of_an_image_set(name, key, tmp_path):
    for value in (*(one for one in NEVER if one != 10**12), 10**10, 0, -1):
        refused(lambda value=value: Registry("data").get(name)(tmp_path, **{key: value}), key)
        text = "9" * 5000 if value == 10**5000 else str(value)
        refused(lambda text=text: data.load(f"{name}:root={tmp_path},{key}={text}"), key)


@pytest.mark.parametrize("name", ["res_normN257C1", "res_normN1C0", "unet_normN1C4097", f"dense_normN{'9' * 5000}C4"])
def test_a_decoder_beyond_its_range(name):
    refused(lambda: decoders.build(name, feature_shape=(2, 4, 4), image_size=8), "decoder")
    refused(lambda: Spec(name="decoder", parameters={"network": name}).make("attacks"), "decoder")
    refused(lambda: Spec(name="adversarial", parameters={"network": name}).make("defenses"), "decoder")


@pytest.mark.parametrize("name", ["nosuch", "a" * 300, "res_norm", ""])
@pytest.mark.parametrize("attack", ["decoder", "gan", "shadow", "confidence", "latent"])
def test_an_unknown_decoder_is_refused_before_work_begins(attack, name):
    with pytest.raises(UserError, match=r"decoder .*expected") as caught:
        Spec(name=attack, parameters={"network": name}).resolve("attacks")
    assert len(str(caught.value)) < 300


def test_a_bottleneck_of_no_channels():
    build: Any = zoo.Bottleneck
    for key in ("channels", "stride", "kernel"):
        for value in (*NEVER, 0, -1):
            refused(lambda key=key, value=value: build(**{key: value}), key)


@pytest.mark.parametrize(
    "text",
    ["linear:looks=1e9", "linear:100000", "nearest:looks=1001", "rmle:restarts=1e9", "rmle:epochs=-1", "decoder:lr=0",
     "decoder:lr=-1", "confidence:weight_decay=-1", "gan:weight_decay=.nan", "map:start_epochs=0", "shadow:lr=1e5",
     "diffusion:start_epochs=-2", "shadow:alignment=.inf", "decoder:epochs=true", "rmle:lr=fast", "nearest:looks=2.5",
     "latent:batch_size=1", "deep_prior:lr=0", "map:high=1000", "diffusion:guidance=1.5", "gan:critic=patch"],
)  # fmt: skip
def test_a_number_outside_the_declared_range_is_refused(text):
    with pytest.raises(UserError, match="; expected"):
        Spec.model_validate(text).make("attacks")


def test_what_is_given_by_place_is_checked_too():
    gaussian = Registry("defenses").get("gaussian")
    with pytest.raises(
        UserError, match=r"^gaussian: sigma is -1; expected a number from 0 to 1000000, such as 0\.025$"
    ):
        gaussian(-1)
    with pytest.raises(TypeError, match="nonsense"):
        gaussian(nonsense=1)
    assert isinstance(gaussian(1).sigma, float)


def test_a_plugin_of_others_need_declare_nothing():
    class Own:
        def __init__(self, network: torch.nn.Module, depth=3, *more: int, **rest: Any):
            self.given = network, depth, more, rest

    network = torch.nn.Identity()
    call: Any = ranges.checked(Own, "own")
    assert call(network, "deep", 1, 2, x=3).given == (network, "deep", (1, 2), {"x": 3})
    with pytest.raises(UserError, match="own: depth is nan; expected a number from -1000000 to 1000000"):
        call(network, math.nan)


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (ranges.Count, "a whole number from 1 to 1000000"),
        (ranges.Inner, "a number above 0, below 1"),
        (ranges.Part | None, "a number from 0 to 1, or null"),
        (int | str | None, "a whole number from -1000000 to 1000000, or a text, or null"),
        (bool, "true or false"),
    ],
)
def test_a_range_in_words(hint, words):
    found = ranges.Declared.of(hint)
    assert found is not None
    assert found.described == words


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--root", "~nosuchuser/x", "--out", "run"], "no such user"),
        (["--seed", "9" * 5000, "--out", "run"], "... (5000 letters); expected a whole number from 0 to 922337203"),
        (["--out", "run", "--defense", "gaussian:sigma=" + "9" * 5000], "expected a number from 0 to 1000000"),
        (["--out", "a" * 300], "is too long a name"),
        (["--out", "ü" * 130], "is too long a name"),  # 260 bytes
    ],
)
def test_a_value_that_cannot_be_is_one_line(given, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["train", "--data", "digits", "--cut", "2", *given])
    lines = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2
    assert len(lines) == 1
    assert says in lines[0]
    assert len(lines[0]) < 700
    assert not list(tmp_path.iterdir())
