"""Fixtures of the tests of reports."""

from __future__ import annotations

import pytest

from splitveil.report import plots


@pytest.fixture
def unplotted(monkeypatch):
    """Reports without plots, which take the most time."""
    monkeypatch.setattr(plots, "draw", lambda folder, parts: [{} for _ in parts])
