"""Fixtures that several test files share."""

from __future__ import annotations

import functools
import gc
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import evaluated
from commands import finish
from networks import plain, tiny
from quick_weights import quick_weights as quick_weights  # a fixture
from splitveil import runs
from splitveil.registry import Registry
from splitveil.training.fabric import Fabric
from toy import affine

collect_ignore = ["helpers/tiny_zoo.py"]
"""Importing it changes the process: it is for processes that tests start, and is not to be searched for doctests."""

for devices in (torch.cuda, torch.xpu, torch.mtia):
    if not devices.is_available():  # torch.manual_seed formats the whole stack for each, to seed it when it is there
        devices.__dict__["manual_seed_all"] = lambda seed: None
# Each training looks for callbacks in the metadata of all installed packages: what it finds does not change meanwhile.
_internals = inspect.getmodule(Fabric).__dict__
_internals["_load_external_callbacks"] = functools.cache(_internals["_load_external_callbacks"])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Collect what earlier tests left open, so that it does not fail a test in which every warning is an error."""
    if any("error" in mark.args for mark in item.iter_markers("filterwarnings")):
        with warnings.catch_warnings(action="ignore"):
            gc.collect()


@pytest.fixture
def small(monkeypatch):
    """Whatever network the settings name, a tiny one is built."""
    monkeypatch.setattr(runs.zoo, "build", tiny)


@pytest.fixture
def affine_decoder(monkeypatch):
    """The decoder ``affine`` has a name, as those of the package have."""
    monkeypatch.setitem(Registry("zoo.decoders")._plugins, "affine", affine)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and attacked run, which no test changes."""
    return finish(tmp_path_factory.mktemp("finished") / "run")


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of a tiny network, for tests with the fixture `small`: they build it, or read its files, often."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.zoo, "build", tiny)
        return finish(tmp_path_factory.mktemp("small") / "run")


@pytest.fixture(scope="module")
def evaluated_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run that a module attacks; the network stays patched, so that it can be read back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs.zoo, "build", plain)
        yield evaluated.train(tmp_path_factory.mktemp("runs") / "run")
