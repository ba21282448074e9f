"""The scripts whose records were made before defenses got a parameter still make the experiments of their records."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from splitveil import config
from splitveil.bench.grid import load_grid
from splitveil.storage.earlier_versions import LATER, as_before

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def record(name: str) -> dict[str, Any]:
    return json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))


def plan(name: str) -> dict[str, config.TrainConfig]:
    """Return the resolved settings of each cell that the script makes."""
    script = importlib.import_module(name)
    if name == "attacks":
        values = {cell: {**script.SETTINGS, "defense": stack} for cell, stack in script.CELLS.items()}
    else:
        made = script.plan()
        values = {cell: {**made.settings, **changed} for cell, changed in made.cells.items()}
    return {cell: config.parse(each).resolve() for cell, each in values.items()}


@pytest.mark.parametrize("name", ["tradeoff", "defenses", "attacks"])
def test_the_script_makes_the_experiment_of_its_record(monkeypatch, name):
    monkeypatch.syspath_prepend(BENCHMARKS)
    cells, found = plan(name), record(name)["cells"]
    assert {row if isinstance(row, str) else row["cell"] for row in found} <= cells.keys()
    specs = [spec for settings in cells.values() for spec in settings.model_dump(mode="json")["defense"]]
    assert {spec["cem"]["follow"] for spec in specs if "cem" in spec} == {0}
    for spec in specs:
        ((defense, parameters),) = as_before(spec).items()
        assert not parameters.keys() & LATER.get(defense, {}).keys()


def test_the_grid_of_survival_has_the_cells_of_its_record():
    assert {cell.id for cell in load_grid(BENCHMARKS / "survival.yaml").cells} == set(record("survival")["cells"])
