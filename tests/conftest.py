"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import finish
from splitveil import runs
from training_helpers import tiny


@pytest.fixture
def small(monkeypatch):
    """Whatever network the settings name, a tiny one is built."""
    monkeypatch.setattr(runs.zoo, "build", tiny)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained and attacked run, which no test changes."""
    return finish(tmp_path_factory.mktemp("finished") / "run")
