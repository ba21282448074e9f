"""Numbers of plug-ins: whatever is written, it is taken or refused with one line, before anything is built."""

from __future__ import annotations

import contextlib
import inspect
import math
from typing import get_type_hints

import pytest

from splitveil.cli import main
from splitveil.config import Spec
from splitveil.errors import UserError
from splitveil.registry import Registry

NUMBERS = [
    (kind, name, key)
    for kind in ("attacks", "defenses")
    for name in Registry(kind).names()
    for key in inspect.signature(Registry(kind).get(name)).parameters
    if get_type_hints(Registry(kind).get(name).__init__).get(key) in (int, float, int | None, float | None)
]


@pytest.mark.parametrize(("kind", "name", "key"), NUMBERS)
def test_every_number_is_taken_or_refused_in_one_line(kind, name, key):
    for value in (0, -1, 0.0, -0.5, 1e-300):
        with contextlib.suppress(UserError):
            Spec(name=name, parameters={key: value}).make(kind)
    for value in (math.nan, math.inf, -math.inf, 1e300, 10**12, -(10**12), 10**5000):
        with pytest.raises(UserError) as caught:
            Spec(name=name, parameters={key: value}).make(kind)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "text",
    ["linear:looks=1e9", "linear:100000", "nearest:looks=1001", "rmle:restarts=1e9", "rmle:epochs=-1", "decoder:lr=0",
     "decoder:lr=-1", "confidence:weight_decay=-1", "gan:weight_decay=.nan", "map:start_epochs=0", "shadow:lr=1e5",
     "diffusion:start_epochs=-2", "shadow:alignment=.inf"],
)  # fmt: skip
def test_a_number_outside_the_declared_range_is_refused(text):
    with pytest.raises(UserError, match="; expected"):
        Spec.model_validate(text).make("attacks")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--root", "~nosuchuser/x", "--out", "run"], "no such user"),
        (["--seed", "9" * 5000, "--out", "run"], "... (5002 characters); "),
        (["--out", "run", "--defense", "gaussian:sigma=" + "9" * 5000], "defense"),
        (["--out", "a" * 300], "the name is too long"),
        (["--out", "ü" * 130], "the name is too long"),  # 260 bytes
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
