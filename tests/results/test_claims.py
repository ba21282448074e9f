"""Every published claim of ours against its record, and every record against the measurement that it names."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from splitveil.statistics.evidence import over_seeds
from splitveil.statistics.intervals import Interval

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "records").glob("*.json"))
KEYS = {"schema", "claim", "setting", "quote", "figure", "recompute", "command", "seeds", "machine", "commit", "note"}
DIGITS = 1e-6
"""Figures of a record are rounded to about so much of themselves."""

pytestmark = pytest.mark.skipif(not RECORDS, reason="the records are in the repository, not in the package")


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def at(value: Any, path: list[str]) -> Any:
    for key in path:
        value = value[key]
    return value


def recomputed(how: dict[str, Any]) -> dict[str, Any]:
    """The figure from the committed measurement."""
    measured = load(ROOT / how["file"])
    if how["how"] == "value":
        found = at(measured, how["value"])
        if isinstance(found, dict):
            return {"value": found["median"], "quartiles": [found["quartile_1"], found["quartile_3"]]}
        return {"value": found}
    cells = {cell["cell"]: cell for cell in measured["cells"]}
    if how["how"] in ("over_seeds", "equal_accuracy"):
        first, second = (seeds_of(cells, how[side]) for side in ("minuend", "subtrahend"))
        both, slope = sorted(first.keys() & second.keys()), 0.0
        changes = {s: at(first[s], how["value"]) - at(second[s], how["value"]) for s in both}
        if how["how"] == "equal_accuracy":  # moved along the line through two cells
            one, other = (cells[name] for name in how["curve"])
            slope = (at(one, how["value"]) - at(other, how["value"])) / (accuracy(one) - accuracy(other))
        moved = [how["scale"] * (changes[s] - slope * (accuracy(first[s]) - accuracy(second[s]))) for s in both]
        return {**over_seeds(moved).as_dict(), "seeds": both}
    names = sorted(name.removesuffix("-cem0") for name in cells if name.endswith("-cem0"))
    pairs = [[at(cells[f"{name}-cem{weight}"], how["value"]) for weight in (0, 16)] for name in names]
    if how["change"] == "pooled":
        return over_seeds([how["scale"] * (b - a) for a, b in pairs]).as_dict()
    changes = [b / a - 1 for a, b in pairs]
    return {
        "lowest": min(changes),
        "highest": max(changes),
        "rises": sum(change > 0 for change in changes),
        "of": len(changes),
    }


def accuracy(cell: dict[str, Any]) -> float:
    return cell["accuracy"]["mean"]


def seeds_of(cells: dict[str, Any], name: str) -> dict[int, Any]:
    found = {re.fullmatch(re.escape(name) + r"-s(\d+)", cell): row for cell, row in cells.items()}
    return {int(match[1]): row for match, row in found.items() if match}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_how_it_was_measured(path):
    record = load(path)
    assert record.keys() - {"withdrawn"} == KEYS
    assert record["schema"] == 1
    assert re.fullmatch("[0-9a-f]{40}", record["commit"])
    assert record["claim"].endswith(".")
    assert record["command"]
    assert record["machine"]
    script = re.search(r"benchmarks/\w+\.py|tests/[\w/]+\.py", record["command"])
    assert script is None or (ROOT / script[0]).is_file()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_figure_is_that_of_the_measurement(path):
    record = load(path)
    if record["recompute"]["how"] == "test":
        for test in record["recompute"]["tests"]:
            file, _, name = test.partition("::")
            tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        return
    found = recomputed(record["recompute"])
    if "seeds" in found:
        assert found.pop("seeds") == record["seeds"]
    for key, value in found.items():
        assert record["figure"][key] == pytest.approx(value, rel=DIGITS), key


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_claim_is_published_as_it_is_recorded(path):
    record = load(path)
    published = pages()
    quote = " ".join(record["quote"].split())
    assert quote in published, f"no page says: {quote}"
    figure = record["figure"]
    if "format" in figure:
        shown = Interval(figure["mean"], *figure["ci95"]) if "ci95" in figure else figure["value"]
        assert format(shown, figure["format"]).replace("-", "−") in quote


@pytest.mark.parametrize("path", [path for path in RECORDS if "withdrawn" in load(path)], ids=lambda path: path.stem)
def test_what_was_taken_back_is_said_where_it_was_published(path):
    record = load(path)
    assert f"**Withdrawn:** {record['withdrawn']}" in pages()
    assert record["note"].startswith("Withdrawn: ")


def pages() -> str:
    """All that README and docs say, in one line."""
    files = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    return " ".join(word for page in files for word in page.read_text(encoding="utf-8").split())
