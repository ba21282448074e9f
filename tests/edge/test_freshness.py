"""benchmarks/freshness.py in small: no wire repeats, no seed is found, and a graph that draws gives its noise away."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path

import pytest

import small_bundle

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture
def freshness(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return import_module("freshness")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge") / "wide"
    small_bundle.make(folder, sent=128)
    return folder / "device"


def test_wires_of_two_processes_that_fork_do_not_repeat(freshness, wide):
    found = freshness.repeats(wide, 100_000)
    assert found == {"wires": 100_000, "processes": 2, "forks": 2, "repeated": 0}


def test_wires_that_repeat_are_counted(freshness, wide, monkeypatch):
    monkeypatch.setattr(freshness, "make", lambda *_: bytes(freshness.DIGEST) * 3)
    assert freshness.repeats(wide, 6)["repeated"] >= 2


def test_a_seed_is_found_where_there_is_one_and_the_client_has_none(freshness, wide):
    found = freshness.search(wide, 2048, known=1000)
    assert found["with_a_seed"]["found"] == found["wires"] == 8
    # Nothing here has a seed that a test could set, so the limits lie far out: the mean score of eight right seeds is
    # 7.7 with a standard deviation of 0.23, and a score of an image without a seed exceeds 6 once in 10⁵ runs.
    assert found["with_a_seed"]["score_of_the_right_seed"]["mean"] > 6
    assert found["as_the_client_draws"]["best_score"]["highest"] < 6


def test_a_graph_that_draws_its_noise_gives_it_away(freshness):
    found = freshness.baked()
    assert found["largest_error_after_stripping"] < 1e-5 < found["sigma"]
