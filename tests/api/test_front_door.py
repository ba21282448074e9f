"""``import splitveil as sv``: cheap, and everything is there by its name."""

from __future__ import annotations

import subprocess
import sys

import pytest

import splitveil as sv
from splitveil.registry import Registry


def test_importing_loads_nothing_heavy():
    code = "import sys, splitveil; print(sorted(m for m in sys.modules if m in ('torch', 'numpy', 'pydantic', 'rich')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_commands_do_not_wait_for_torch_before_they_need_it():
    code = "import sys, splitveil.cli; print(sorted(m for m in sys.modules if m in ('torch', 'scipy', 'matplotlib')))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_name_that_is_listed_is_there():
    for name in sv.__all__:
        assert getattr(sv, name).__name__ == name
    assert set(sv.__all__) <= set(dir(sv))


@pytest.mark.parametrize("kind", ["defenses", "attacks"])
def test_every_plugin_is_there_by_its_class(kind):
    for name in Registry(kind).names():
        thing = Registry(kind).get(name)
        assert getattr(sv, thing.__name__.removesuffix("Attack")) is thing
        assert thing.__name__.removesuffix("Attack") in dir(sv)


def test_no_two_plugins_have_one_name():
    things = {Registry(kind).get(name) for kind in ("defenses", "attacks") for name in Registry(kind).names()}
    names = [thing.__name__.removesuffix("Attack") for thing in things]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["gaussian", "Gausian", "nothing", "_hidden"])
def test_what_is_not_there_is_no_attribute(name):
    with pytest.raises(AttributeError, match=f"module 'splitveil' has no attribute '{name}'"):
        getattr(sv, name)
