"""What docs/serve.md sends is answered as it shows, and its tables are those of the code."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import served
import small_bundle
from splitveil.serving.limits import Limits
from splitveil.serving.metrics import CODES

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    with served.door(small_bundle.make(tmp_path_factory.mktemp("page") / "bundle")) as opened:
        yield opened


def test_the_request_in_json_is_answered_as_shown(door):
    (sent,) = re.findall(r"    -d '(.*)'\n", PAGE)
    (shown,) = re.findall(r"^\{\"model_name.*$", PAGE, re.MULTILINE)
    answer = asyncio.run(door.ask("POST", door.infer, sent.encode()))
    assert set(answer.json) == set(json.loads(shown))
    data = json.loads(shown)["outputs"][0]["data"]
    np.testing.assert_allclose(answer.logits[0], data, rtol=1e-5)


def test_the_binary_request_is_answered_the_same(door):
    (head,) = re.findall(r"printf '(\{.*\})' > request", PAGE)
    (codes,) = re.findall(r"printf '((?:\\\d{3})+)' >> request", PAGE)
    (length,) = re.findall(r"Inference-Header-Content-Length: (\d+)", PAGE)
    raw = bytes(int(code, 8) for code in codes.split("\\")[1:])
    assert len(head) == int(length)
    answer = asyncio.run(door.ask("POST", door.infer, head.encode() + raw, {"Inference-Header-Content-Length": length}))
    (sent,) = re.findall(r"    -d '(.*)'\n", PAGE)
    other = asyncio.run(door.ask("POST", door.infer, sent.encode()))
    np.testing.assert_array_equal(answer.logits, other.logits)


def test_the_python_block_runs(tmp_path, monkeypatch):
    small_bundle.make(tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict = {}
    exec(compile(block, "docs/serve.md", "exec"), names)
    assert callable(names["application"])


def test_the_tables_of_codes_and_limits_are_complete():
    assert [int(code) for code in re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)] == [
        code for code in CODES if code != 200
    ]
    limits = asdict(Limits())
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \| ([^|]+) \|", PAGE, re.MULTILINE))
    assert {name.replace("-", "_") for name in rows} == set(limits)
    for name, shown in rows.items():
        value = limits[name.replace("-", "_")]
        assert shown == (f"{value:,}" if value is not None else "16 KiB and 256 wires, at most 1 MiB")


def test_the_trials_on_the_page_are_those_of_the_record(monkeypatch):
    folder = Path(__file__).parents[2] / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    trials = importlib.import_module("trials")
    record = json.loads((folder / "serving_faults.json").read_text())
    assert trials.http_table(record["trials"]) in PAGE
    assert all(trial["held"] for trial in record["trials"].values())
    assert record["trials"]["fuzzed requests"]["requests"] == 10_000
