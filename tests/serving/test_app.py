"""The door for HTTP: answers equal the model's, and every refusal has its code and one line."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

import served
import small_bundle
from served import ask, asked, check_refusal, one, some_wires
from splitveil.serving.limits import Limits
from splitveil.serving.refusals import Refusal
from splitveil.serving.served import Served, Tensor
from splitveil.serving.tokens import digest

TOKEN = "a-token-that-nobody-logs"


@pytest.fixture(scope="module")
def door(bundle):
    with served.door(bundle, pages={"/": b"<p>page</p>"}) as opened:
        yield opened


@pytest.fixture
def guarded(bundle, tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"ann:{digest(TOKEN)}\n")
    with served.door(bundle, tokens=file) as opened:
        yield opened


@pytest.mark.parametrize("count", [1, 3, 256])
@pytest.mark.parametrize("binary", [True, False])
def test_answers_equal_the_models(door, bundle, count, binary):
    wires = some_wires(count)
    body, headers = asked(wires, binary, id="mine")
    answer = ask(door, "POST", door.infer, body, headers)
    np.testing.assert_array_equal(answer.logits, served.expected(bundle, wires))
    assert answer.status == 200
    about = answer.json
    assert about["model_name"] == door.service.served.model
    assert (about["model_version"], about["id"]) == ("1", "mine")
    assert ("data" in about["outputs"][0]) is not binary
    assert answer.headers["content-length"] == str(len(answer.body))


def test_nested_lists_a_version_and_an_id_of_our_own(door, bundle):
    wires = some_wires(2)
    body = one(shape=[2, 4], data=wires.tolist())
    answer = ask(door, "POST", door.infer.replace("/infer", "/versions/1/infer"), body)
    np.testing.assert_array_equal(answer.logits, served.expected(bundle, wires))
    assert len(answer.json["id"]) == 16


def test_binary_answers_where_all_outputs_are_asked_for_in_binary(door):
    body = json.dumps({**json.loads(one()), "parameters": {"binary_data_output": True}}).encode()
    assert "inference-header-content-length" in ask(door, "POST", door.infer, body).headers


def test_health_and_metadata(door):
    model = door.infer.removesuffix("/infer")
    assert ask(door, "GET", "/v2/health/live").json == {"live": True}
    assert ask(door, "GET", "/v2/health/ready").json == {"ready": True}
    assert ask(door, "GET", "/v2").json["extensions"] == ["binary_tensor_data"]
    assert ask(door, "GET", f"{model}/versions/1/ready").json["ready"] is True
    assert ask(door, "GET", model).json == {
        "name": door.service.served.model,
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "wire", "datatype": "UINT8", "shape": [-1, small_bundle.SENT]}],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, len(small_bundle.CLASSES)]}],
    }


def test_a_page_may_reach_its_own_server_only_and_is_not_kept(door):
    answer = ask(door, "GET", "/")
    assert answer.body == b"<p>page</p>"
    assert answer.headers["cache-control"] == "no-store"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy


MALFORMED = {
    "no JSON": b"codes",
    "no UTF-8": b"\xff{}",
    "no object": b"[]",
    "not a number": b'{"inputs": NaN}',
    "nested too deeply": b'{"inputs":' + b"[" * 15000,
    "a number of thousands of digits": one(data=None)[:-3] + b', "data": [1, 2, 3, ' + b"9" * 5000 + b"]}]}",
    "no inputs": b"{}",
    "no list of inputs": b'{"inputs": {"name": "wire"}}',
    "no objects": b'{"inputs": [1]}',
    "two inputs": json.dumps({"inputs": 2 * json.loads(one())["inputs"]}).encode(),
    "another input": one(name="image"),
    "another type": one(datatype="FP32"),
    "no type": one(datatype=None),
    "another shape": one(shape=[1, 5], data=[1, 2, 3, 4, 5]),
    "no image": one(shape=[0, 4], data=[]),
    "a negative shape": one(shape=[-1, 4]),
    "a true shape": one(shape=[True, 4]),
    "a shape of floats": one(shape=[1.0, 4]),
    "no shape": one(shape=None),
    "too few numbers": one(data=[1, 2, 3]),
    "lists of unequal lengths": one(data=[[1, 2], [3]]),
    "floats": one(data=[1, 2, 3, 4.5]),
    "truths": one(data=[True, True, True, True]),
    "words": one(data=["1", "2", "3", "4"]),
    "a truth among numbers": one(data=[1, 2, 3, True]),
    "lists within lists without an end": one(data=json.loads("[" * 400 + "1, 2, 3, 4" + "]" * 400)),
    "no numbers in many lists": one(data=[[[]], [[]]]),
    "256": one(data=[1, 2, 3, 256]),
    "below 0": one(data=[1, 2, 3, -1]),
    "beyond 64 bits": one(data=[1, 2, 3, 2**70]),
    "no list of data": one(data="1234"),
    "no data": one(data=None),
    "both kinds of data": one(parameters={"binary_data_size": 0}),
    "more bytes than there are": one(data=None, parameters={"binary_data_size": 4}),
    "a size that is none": one(data=None, parameters={"binary_data_size": "4"}),
    "parameters that are none": one(parameters=[1]),
    "another output": json.dumps({**json.loads(one()), "outputs": [{"name": "feature"}]}).encode(),
    "an output without a name": json.dumps({**json.loads(one()), "outputs": [{}]}).encode(),
    "binary that is no truth": json.dumps({**json.loads(one()), "parameters": {"binary_data_output": 1}}).encode(),
    "classification": json.dumps(
        {**json.loads(one()), "outputs": [{"name": "logits", "parameters": {"classification": 3}}]}
    ).encode(),
    "an id with other letters": json.dumps({**json.loads(one()), "id": "a\nb"}).encode(),
    "a long id": json.dumps({**json.loads(one()), "id": "a" * 65}).encode(),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_malformed_is_400(door, name):
    check_refusal(ask(door, "POST", door.infer, MALFORMED[name]), 400)


def test_one_long_word_takes_no_memory_for_each_of_the_others(bundle):
    """As an array of numpy each would have the length of the longest, 160 MB in all."""
    served = Served.of(bundle, Limits())
    words = ["a" * 20_000, *([""] * 2_000)]
    tracemalloc.start()
    try:
        for shape in ([1, 4], [256, 4]):
            with pytest.raises(Refusal, match="wrong data"):
                served.wire([Tensor("wire", "UINT8", shape, words)])
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", ["-1", "x", "", "99999", "9" * 30, "4"])
def test_a_wrong_length_of_the_json_part_is_400(door, length):
    check_refusal(
        ask(door, "POST", door.infer, one(), {"Inference-Header-Content-Length": length}),
        400,
    )


def test_bytes_too_many_are_400(door):
    body, headers = asked(some_wires(2))
    check_refusal(ask(door, "POST", door.infer, body + b"1", headers), 400)


def test_a_compressed_body_is_400(door):
    check_refusal(ask(door, "POST", door.infer, one(), {"Content-Encoding": "gzip"}), 400)


@pytest.mark.parametrize("path", ["/v2/models/tiny-000000000000/infer", "/v2/models/tiny-000000000000"])
def test_another_pair_is_404_and_told_what_to_do(door, path):
    answer = ask(door, "POST" if path.endswith("infer") else "GET", path)
    check_refusal(answer, 404)
    assert door.service.served.model in answer.json["error"]
    assert "export the device part again" in answer.json["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v3", 404),
        ("GET", "/v2/models/", 404),
        ("POST", "/v2", 405),
        ("DELETE", "/v2/health/live", 405),
        ("GET", "INFER", 405),
        ("POST", "VERSION", 404),
    ],
)
def test_other_addresses_and_methods(door, method, path, status):
    path = {"INFER": door.infer, "VERSION": door.infer.replace("/infer", "/versions/2/infer")}.get(path, path)
    check_refusal(ask(door, method, path), status)


def test_too_many_images_are_413(door):
    check_refusal(ask(door, "POST", door.infer, *asked(some_wires(257))), 413)


def test_a_long_body_is_413_before_it_is_read(bundle):
    with served.door(bundle, Limits(max_body=100)) as door:
        for length in ("101", "9" * 5000):
            answer = ask(door, "POST", door.infer, [b"not read"], {"Content-Length": length})
            check_refusal(answer, 413)
            assert answer.headers["connection"] == "close"
        assert ask(door, "POST", door.infer, [b"x" * 60, b"x" * 60, b"never asked for"]).status == 413
        assert [line["bytes"] for line in door.lines()] == [0, 0, 120]


def test_tokens(guarded):
    body, headers = asked(some_wires(1))
    for wrong in (
        None,
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer ",
        "Bearer other",
        f"Bearer {TOKEN}x",
        "Bearer " + "x" * 9999,
    ):
        answer = ask(
            guarded, "POST", guarded.infer, body, {**headers, **({"Authorization": wrong} if wrong is not None else {})}
        )
        check_refusal(answer, 401)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert ask(guarded, "GET", "/v2/models/other").status == 401  # the name is not told to strangers
    assert ask(guarded, "GET", "/v2/health/ready").status == 200
    right = {"Authorization": f"bearer {TOKEN}"}
    assert ask(guarded, "GET", "/v2", headers=right).status == 200
    assert ask(guarded, "POST", guarded.infer, body, {**headers, **right}).status == 200
    assert guarded.lines()[-1]["token"] == "ann"


def test_the_log_has_these_facts_and_no_content(guarded):
    right = {"Authorization": f"Bearer {TOKEN}"}
    wires = np.full((2, 4), 77, np.uint8)
    body, headers = asked(wires, binary=False, id="mine")
    answer = ask(guarded, "POST", guarded.infer, body, {**headers, **right})
    ask(guarded, "POST", guarded.infer, one(name="secret", datatype="secret"), right)
    ask(guarded, "POST", guarded.infer, b"secret", {"Authorization": "Bearer secret"})
    text = guarded.log.getvalue()
    first = guarded.lines()[0]
    assert set(first) == {"time", "event", "process", "id", "token", "status", "reason", "images", "bytes", "ms"}
    assert (first["id"], first["token"], first["images"], first["bytes"]) == ("mine", "ann", 2, len(body))
    for secret in (TOKEN, digest(TOKEN), "77", "secret", *(str(value) for value in answer.logits.ravel())):
        for line in guarded.lines():
            assert secret not in {str(value) for value in line.values()}
    assert TOKEN not in text
    assert "secret" not in text


def test_an_answer_that_is_not_finite_is_the_wires_fault(bundle):
    def run(wires):
        return [np.full((len(wires), 3), np.where(wires[:, :1] == 1, np.inf, 0), np.float32)]

    with served.door(bundle, run=run) as door:
        check_refusal(ask(door, "POST", door.infer, one()), 400)
        assert ask(door, "POST", door.infer, one(data=[2, 2, 3, 4])).status == 200
