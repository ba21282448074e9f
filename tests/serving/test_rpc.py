"""The door for gRPC: its messages, its codes, its limits, and TLS, tokens and workers as of the door for HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import threading

import grpc
import numpy as np
import pytest

import splitveil
from grpc_calls import call, expected, logits, request, run, some
from splitveil.errors import UserError
from splitveil.serving import inference_pb2 as pb
from splitveil.serving import rpc, tokens
from splitveil.serving.limits import Limits
from splitveil.serving.refusals import Kind
from splitveil.serving.served import Served
from splitveil.serving.settings import Settings, check

CODES = {grpc.StatusCode[kind.grpc] for kind in Kind}


# --- what it answers --------------------------------------------------------------------------------------------------


def test_answers_are_the_models(bundle):
    async def work(channel, service):
        for count, name in [(1, "one"), (3, ""), (256, "many")]:
            wires = some(count, count)
            answer = await call(channel, "ModelInfer", request(bundle, wires, id=name))
            np.testing.assert_allclose(logits(answer), expected(wires), rtol=1e-4)
            about = pb.ModelInferResponse.FromString(answer)
            assert (about.model_name, about.model_version) == (bundle.model_name, "1")
            assert about.id == name or (not name and re.fullmatch("[0-9a-f]{16}", about.id))
            assert (about.outputs[0].name, about.outputs[0].datatype) == ("logits", "FP32")
        numbers = request(bundle, some(2))
        numbers.inputs[0].contents.uint_contents.extend(map(int, some(2).ravel()))
        del numbers.raw_input_contents[:]
        numbers.outputs.add(name="logits")
        about = pb.ModelInferResponse.FromString(await call(channel, "ModelInfer", numbers))
        assert not about.raw_output_contents
        values = np.array(about.outputs[0].contents.fp32_contents).reshape(2, 3)
        np.testing.assert_allclose(values, expected(some(2)), rtol=1e-4)

    log = run(bundle, work)
    assert [(line["status"], line["images"]) for line in log] == [(200, 1), (200, 3), (200, 256), (200, 2)]
    assert log[0]["bytes"] == len(request(bundle, some(1), id="one").SerializeToString())


def test_many_clients_get_their_own_answers_while_others_leave(bundle):
    async def client(channel, number):
        rng, answered = np.random.default_rng(number), 0
        for step in range(12):
            wires = some(int(rng.integers(1, 20)), 100 * number + step)
            asked = channel.unary_unary(f"/{rpc.SERVICE}/ModelInfer")(request(bundle, wires).SerializeToString())
            if rng.random() < 0.3:
                await asyncio.sleep(rng.choice([0, 0.001]))
                asked.cancel()
                continue
            np.testing.assert_allclose(logits(await asked), expected(wires), rtol=1e-4)
            answered += 1
        return answered

    async def work(channel, service):
        assert sum(await asyncio.gather(*(client(channel, number) for number in range(16)))) > 50

    run(bundle, work)


def test_metadata_and_health(bundle):
    async def work(channel, service):
        about = pb.ModelMetadataResponse.FromString(
            await call(channel, "ModelMetadata", pb.ModelMetadataRequest(name=bundle.model_name))
        )
        assert (about.name, list(about.versions), about.platform) == (bundle.model_name, ["1"], "onnxruntime_onnx")
        assert [(one.name, one.datatype, list(one.shape)) for one in [*about.inputs, *about.outputs]] == [
            ("wire", "UINT8", [-1, 4]),
            ("logits", "FP32", [-1, 3]),
        ]
        server = pb.ServerMetadataResponse.FromString(await call(channel, "ServerMetadata"))
        assert (server.name, server.version) == ("splitveil", splitveil.__version__)
        assert pb.ServerLiveResponse.FromString(await call(channel, "ServerLive")).live
        asked = pb.ModelReadyRequest(name=bundle.model_name, version="1")
        for ready in (True, False):
            assert pb.ServerReadyResponse.FromString(await call(channel, "ServerReady")).ready is ready
            assert pb.ModelReadyResponse.FromString(await call(channel, "ModelReady", asked)).ready is ready
            service.draining = True
        assert (await call(channel, "ModelInfer", request(bundle, some(1))))[0] == "UNAVAILABLE"

    run(bundle, work)


# --- what it refuses --------------------------------------------------------------------------------------------------


def without_data(bundle):
    made = request(bundle, some(1))
    del made.raw_input_contents[:]
    return made


def changed(bundle, change):
    made = request(bundle, some(1))
    change(made)
    return made


WRONG = {
    "no message of this kind": (lambda b: b"\xff\xff", "no ModelInferRequest"),
    "no input": (lambda b: pb.ModelInferRequest(model_name=b.model_name), "expected one input"),
    "no data": (without_data, "wrong data; expected 4 integers"),
    "another input": (lambda b: changed(b, lambda r: setattr(r.inputs[0], "name", "pixels")), "named wire"),
    "another type": (lambda b: changed(b, lambda r: setattr(r.inputs[0], "datatype", "FP32")), "expected UINT8"),
    "too few bytes": (lambda b: changed(b, lambda r: r.inputs[0].shape.__setitem__(0, 2)), "4 bytes of data"),
    "another shape": (lambda b: changed(b, lambda r: r.inputs[0].shape.append(1)), "wrong shape"),
    "a shape of many": (lambda b: changed(b, lambda r: r.inputs[0].shape.__setitem__(0, -(2**62))), "wrong shape"),
    "data twice": (lambda b: changed(b, lambda r: r.inputs[0].contents.uint_contents.append(1)), "either contents"),
    "two data": (lambda b: changed(b, lambda r: r.raw_input_contents.append(b"")), "2 raw_input_contents for 1"),
    "shared memory": (
        lambda b: changed(b, lambda r: setattr(r.inputs[0].parameters["shared_memory_region"], "string_param", "a")),
        "shared memory is not offered",
    ),
    "another output": (lambda b: changed(b, lambda r: r.outputs.add(name="features")), "expected logits"),
    "a bad id": (lambda b: request(b, some(1), id="a\nb"), "wrong id"),
    "a classification": (
        lambda b: changed(
            b, lambda r: setattr(r.outputs.add(name="logits").parameters["classification"], "int64_param", 1)
        ),
        "classification is not offered",
    ),
}


def test_what_is_malformed_is_an_invalid_argument_with_its_reason(bundle):
    async def work(channel, service):
        for make, words in WRONG.values():
            code, details = await call(channel, "ModelInfer", make(bundle))
            assert (code, words in details) == ("INVALID_ARGUMENT", True), details
        large = changed(bundle, lambda made: made.inputs[0].contents.uint_contents.extend([1, 2, 3, 256]))
        del large.raw_input_contents[:]
        assert "integers from 0 to 255" in (await call(channel, "ModelInfer", large))[1]
        empty = channel.stream_unary(f"/{rpc.SERVICE}/ModelInfer")()
        await empty.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match="has no message"):
            await empty

    log = run(bundle, work)
    assert {line["reason"] for line in log} == {"malformed"}


def test_other_models_and_methods_are_told_so(bundle):
    async def work(channel, service):
        other = pb.ModelInferRequest(model_name="tiny-000000000000")
        code, details = await call(channel, "ModelInfer", other)
        assert code == "NOT_FOUND"
        assert bundle.model_name in details
        assert "export the device part again" in details
        for method in ("ModelMetadata", "ModelReady"):
            assert (await call(channel, method, pb.ModelReadyRequest(name="other")))[0] == "NOT_FOUND"
        asked = pb.ModelReadyRequest(name=bundle.model_name, version="2")
        assert (await call(channel, "ModelReady", asked))[0] == "NOT_FOUND"
        for method in ("ModelStreamInfer", "RepositoryIndex", "x"):
            assert (await call(channel, method))[0] == "UNIMPLEMENTED"

    run(bundle, work)


def test_floats_must_be_finite_and_half_precision_is_raw(bundle):
    served = dataclasses.replace(Served.of(bundle, Limits()), datatype="FP16")
    wires = np.array([[1, 2, 3, np.nan]], np.float16)
    asked = request(bundle, wires)
    asked.inputs[0].datatype = "FP16"
    with pytest.raises(Exception, match="NaN or infinity"):
        served.wire(rpc.tensors(asked))
    del asked.raw_input_contents[:]
    with pytest.raises(Exception, match="contents of this datatype"):
        rpc.tensors(asked)
    asked.inputs[0].datatype = "FP32"
    asked.inputs[0].contents.fp32_contents.extend([1, 2, 3, np.inf])
    with pytest.raises(Exception, match="NaN or infinity"):
        dataclasses.replace(served, datatype="FP32").wire(rpc.tensors(asked))


def test_tokens_are_asked_before_the_message_is_read(bundle, tmp_path):
    token, _ = tokens.make("ann", tmp_path / "tokens")
    mine, asked = (("authorization", f"Bearer {token}"),), request(bundle, some(1))

    async def work(channel, service):
        for more in ({}, {"metadata": (("authorization", "Bearer wrong"),)}):
            for method in ("ModelInfer", "ModelMetadata", "ModelReady", "ServerMetadata"):
                code, details = await call(channel, method, b"\xff", **more)
                assert (code, "wrong" in details) == ("UNAUTHENTICATED", False)
        for method in ("ServerLive", "ServerReady"):
            assert isinstance(await call(channel, method), bytes)
        assert isinstance(await call(channel, "ModelInfer", asked, metadata=mine), bytes)
        (tmp_path / "tokens").unlink()
        service.tokens._next = 0  # a second has passed
        assert (await call(channel, "ModelInfer", asked, metadata=mine))[0] == "UNAUTHENTICATED"

    log = run(bundle, work, users=tokens.Tokens(tmp_path / "tokens"))
    assert {line["token"] for line in log if line["status"] == 200} == {"ann"}
    assert token not in json.dumps(log)


def test_limits(bundle):
    limits = Limits(max_images=8, max_queue=8, max_batch=8, body_seconds=0.2, answer_seconds=0.2, max_body=400)
    opened, entered = threading.Event(), threading.Event()
    opened.set()

    def model(wires):
        entered.set()
        assert opened.wait(20)
        return [expected(wires)]

    async def work(channel, service):
        assert (await call(channel, "ModelInfer", request(bundle, some(9))))[0] == "RESOURCE_EXHAUSTED"
        code, details = await call(channel, "ModelInfer", request(bundle, some(100)))
        assert (code, "larger than max" in details) == ("RESOURCE_EXHAUSTED", True)
        slow = channel.stream_unary(f"/{rpc.SERVICE}/ModelInfer")()
        assert (await slow.code(), await slow.details()) == (
            grpc.StatusCode.DEADLINE_EXCEEDED,
            "the request came too slowly",
        )
        packed = {"compression": grpc.Compression.Gzip}
        assert (await call(channel, "ModelInfer", request(bundle, some(8) * 0), **packed))[0] == "UNIMPLEMENTED"
        opened.clear()
        entered.clear()  # the server has tried the model as it began
        answers = [asyncio.ensure_future(call(channel, "ModelInfer", request(bundle, some(6))))]
        assert await asyncio.to_thread(entered.wait, 20)  # else the second would find the first in the queue
        answers += [asyncio.ensure_future(call(channel, "ModelInfer", request(bundle, some(6)))) for _ in range(2)]
        codes = sorted(answer[0] for answer in await asyncio.gather(*answers))
        assert codes == ["DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED", "UNAVAILABLE"]
        opened.set()

    log = run(bundle, work, limits, model=model)
    reasons = [line["reason"] for line in log]
    assert reasons[:3] == ["too_large", "gone", "slow_request"]  # gRPC itself has refused the second
    assert sorted(reasons[4:]) == ["busy", "deadline", "deadline"]


def test_more_requests_at_once_than_the_queue_can_hold_are_told_to_come_again(bundle):
    async def work(channel, service):
        method = f"/{rpc.SERVICE}/ModelInfer"
        waiting = [channel.stream_unary(method)() for _ in range(5)]
        assert {await one.code() for one in waiting} == {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        }

    log = run(bundle, work, Limits(max_images=2, max_queue=2, max_batch=2, body_seconds=0.5))
    assert sorted(line["reason"] for line in log) == ["busy", *["slow_request"] * 4]


def test_clients_that_go_on_while_the_door_closes_are_told_so(bundle, monkeypatch):
    """gRPC would cancel what reaches it amid its own closing."""
    monkeypatch.setattr(rpc, "HELD", 0.6)  # also on a machine that is busy

    async def client(channel):
        method = channel.unary_unary(f"/{rpc.SERVICE}/ModelInfer")
        while True:
            asked = method(request(bundle, some(1)).SerializeToString())
            code, details = await asked.code(), await asked.details()
            if "stopping" not in details:
                return code, details
            assert code is grpc.StatusCode.UNAVAILABLE

    async def work(channel, service):
        for code, details in await asyncio.gather(*(client(channel) for _ in range(8))):
            assert (code, "connect" in details) == (grpc.StatusCode.UNAVAILABLE, True), details

    log = run(bundle, work, closing=True)
    assert {line["reason"] for line in log} == {"draining"}


def test_a_failure_of_ours_tells_an_id_and_no_more(bundle):
    calls = []

    def model(wires):
        calls.append(len(wires))
        if len(calls) > 1:  # the first is the trial at the start
            raise ValueError("secret content")
        return [expected(wires)]

    async def work(channel, service):
        code, details = await call(channel, "ModelInfer", request(bundle, some(1), id="mine"))
        assert (code, "mine" in details, "secret" in details) == ("INTERNAL", True, False)

    log = run(bundle, work, model=model)
    assert "secret" not in json.dumps(log)


def test_who_leaves_is_counted_and_leaves_the_queue(bundle):
    async def work(channel, service):
        for _ in range(3):
            asked = channel.stream_unary(f"/{rpc.SERVICE}/ModelInfer")()
            await asked.wait_for_connection()
            await asyncio.sleep(0.05)
            asked.cancel()
        while service.active:
            await asyncio.sleep(0.01)
        assert service.tail.waiting == 0

    assert {line["reason"] for line in run(bundle, work)} == {"gone"}


def test_random_messages_get_listed_codes_and_no_traceback(bundle):
    rng = np.random.default_rng(0)
    good = request(bundle, some(3), id="x").SerializeToString()

    async def work(channel, service):
        seen = set()
        for _ in range(500):
            message = bytearray(good)
            for _ in range(rng.integers(1, 6)):
                message[rng.integers(len(message))] = rng.integers(256)
            answer = await call(channel, "ModelInfer", bytes(message[: rng.integers(1, len(message) + 1)]))
            if isinstance(answer, tuple):
                seen.add(answer[0])
                assert "Traceback" not in answer[1]
        assert seen <= {code.name for code in CODES} - {"INTERNAL"}
        assert len(seen) > 1

    log = run(bundle, work)
    assert not [line for line in log if line["event"] != "request"]


# --- the command ------------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="--grpc-port 70000; expected 0 to 65535"):
        check(Settings("b", grpc_port=70000))
    with pytest.raises(UserError, match="--port and --grpc-port are both 8080"):
        check(Settings("b", grpc_port=8080))
    monkeypatch.setattr("splitveil.serving.settings.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package grpcio"):
        check(Settings("b", grpc_port=0))
