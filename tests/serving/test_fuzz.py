"""Whatever is asked, the answer has a listed code, and a refusal is one line of JSON."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import served
from served import asked, some_wires
from splitveil.serving.metrics import CODES

VALUES = st.sampled_from(
    [None, True, 0, -1, 2**70, 0.5, float("nan"), float("inf"), "", "wire", "UINT8", "é\n", [], [[]], [1, 4], [2, 4]]
    + [[1, 2, 3, 4], [[1, 2], [3]], [1, "2", 3, 4], [None] * 4, {}, {"name": "wire"}, {"binary_data_size": 4}]
    + [
        {"binary_data": 1},
        [{"name": "logits"}],
        [{"name": "logits", "parameters": {"binary_data": True}}],
        [{}],
        "a" * 999,
    ]
)
CHANGED = st.dictionaries(st.sampled_from(["id", "outputs", "inputs", "parameters"]), VALUES, max_size=1)
KEYS = ["name", "datatype", "shape", "data", "parameters"]


@pytest.fixture(scope="module")
def door(bundle):
    with served.door(bundle) as opened:
        yield opened


def check(door: served.Door, method: str, path: str, body: bytes, headers: dict[str, str]) -> served.Answer:
    answer = asyncio.run(door.ask(method, path, body, headers))
    assert answer.status in CODES
    if answer.status != 200:
        assert list(answer.json) == ["error"]
        assert "Traceback" not in answer.json["error"]
        assert "\n" not in answer.json["error"]
    return answer


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=2), CHANGED)
def test_requests_with_other_values(door, changes, more):
    about = {"name": "wire", "datatype": "UINT8", "shape": [1, 4], "data": [1, 2, 3, 4], **changes}
    body = json.dumps({"inputs": [about], **more}).encode()
    answer = check(door, "POST", door.infer, body, {})
    assert answer.status in (200, 400, 413)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_requests_with_other_bytes(door, data):
    body, headers = asked(some_wires(2))
    broken = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(broken)))
        if data.draw(st.booleans()):
            del broken[place : place + data.draw(st.integers(1, 20))]
        else:
            broken[place : place + 1] = data.draw(st.binary(max_size=3))
    if data.draw(st.booleans()):
        headers = {"Inference-Header-Content-Length": data.draw(st.text("0123456789-x ", max_size=5))}
    answer = check(door, "POST", door.infer, bytes(broken), headers)
    assert answer.status in (200, 400, 413)
    if answer.status == 200:
        assert np.isfinite(answer.logits).all()


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["GET", "POST", "PUT", "HEAD", "BREW"]), st.text(max_size=20), st.binary(max_size=20))
def test_other_addresses(door, method, path, body):
    for place in (f"/{path}", f"/v2/models/{path}", f"{door.infer}{path}"):
        assert check(door, method, place, body, {}).status in (200, 400, 404, 405)
