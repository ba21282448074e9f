"""benchmarks/card.py: what counts as a fault of a card in a browser, and that the card of the record has none."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RECORD = json.loads((BENCHMARKS / "card.json").read_text())


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import card

    return card


def test_the_recorded_card_has_no_fault_in_any_look(benchmark):
    assert benchmark.faults(RECORD) == []
    assert {row["look"] for row in RECORD["looks"]} == {
        f"{size}, {color}" for size in ("desktop", "phone") for color in ("light", "dark")
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"width": 391, "window": 390}, "it is 391 wide"),
        ({"requests": ["GET https://example.org/"]}, "GET https://example.org/"),
        ({"console": ["refused"]}, "refused"),
        ({"axe": [{"id": "color-contrast", "impact": "serious"}]}, "color-contrast (serious)"),
    ],
)
def test_each_fault_is_named_with_its_look(benchmark, change, said):
    record = copy.deepcopy(RECORD)
    record["looks"][-1].update(change)
    assert benchmark.faults(record) == [f"phone, dark: {said}"]


def test_a_third_sheet_is_a_fault(benchmark):
    pdf = b"<< /Type /Pages /Kids [] >>" + 3 * b"<< /Type /Page >>"
    assert benchmark.sheets(pdf) == 3
    assert benchmark.faults(RECORD | {"sheets": 3}) == ["it prints on 3 sheets"]
