"""Fixtures that several test files share."""

from __future__ import annotations

import pytest

from splitveil import runs
from training_helpers import tiny


@pytest.fixture
def small(monkeypatch):
    """Whatever network the settings name, a tiny one is built."""
    monkeypatch.setattr(runs.zoo, "build", tiny)
