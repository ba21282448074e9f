"""The client against a server that a test steers: answers, retries, deadlines, memory, threads and forks."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

import small_bundle
import stub_server
from splitveil_edge import Client, ServerError, UserError
from splitveil_edge.transport import MOST_ANSWERED
from stub_server import give, refuse, serving


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge") / "bundle"
    return folder, small_bundle.make(folder)


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def test_answers_are_those_of_the_tail_to_the_wires_that_were_sent(made):
    folder, exported = made
    with serving(exported) as stub, Client(stub.url, folder / "device") as client:
        answers = client.classify(some(5)) + client.classify(some(300, 1)) + client.classify(some(0))
    assert [len(asked.wires) for asked in stub.asked] == [5, 256, 44]
    logits = np.concatenate([stub.tail(asked.wires) for asked in stub.asked])
    assert np.array_equal(np.stack([answer.logits for answer in answers]), logits)
    assert [answer.label for answer in answers] == [small_bundle.CLASSES[i] for i in logits.argmax(1)]
    assert [answers[0].id, answers[-1].id] == [stub.asked[0].about["id"], stub.asked[2].about["id"]]
    assert {asked.path for asked in stub.asked} == {f"/v2/models/{exported.model_name}/infer"}
    assert len({asked.about["id"] for asked in stub.asked}) == 3


def test_a_request_of_large_wires_holds_fewer_images(made, monkeypatch):
    folder, exported = made
    with serving(exported) as stub, Client(stub.url, folder) as client:
        monkeypatch.setattr("splitveil_edge.client.MOST_BYTES", 13)
        assert len(client.classify(some(7))) == 7
        monkeypatch.setattr("splitveil_edge.client.MOST_BYTES", 1)
        assert len(client.classify(some(2))) == 2
    assert [len(asked.wires) for asked in stub.asked] == [3, 3, 1, 1, 1]


def test_a_request_whose_answer_is_long_holds_fewer_images(made, monkeypatch):
    folder, exported = made
    with serving(exported) as stub, Client(stub.url, folder) as client:
        most = MOST_ANSWERED // (3 * len(client.device.classes))
        monkeypatch.setattr("splitveil_edge.client.LOGIT_BYTES", most)
        assert len(client.classify(some(7))) == 7
    assert [len(asked.wires) for asked in stub.asked] == [3, 3, 1]


def test_an_answer_with_its_numbers_in_json_is_read(made):
    folder, exported = made

    def script(handler, asked, _):
        header, tensors = stub.answer(asked, output={"parameters": {}, "data": stub.tail(asked.wires).tolist()})
        del tensors
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(header)))
        handler.end_headers()
        handler.wfile.write(header)

    with serving(exported, script) as stub, Client(stub.url, folder) as client:
        (answer,) = client.classify(some(1))
    assert np.allclose(answer.logits, stub.tail(stub.asked[0].wires)[0])


def test_a_retry_sends_the_same_bytes(made):
    folder, exported = made

    def script(handler, asked, number):
        if number == 1:
            handler.close_connection = True  # without an answer
        elif number == 2:
            refuse(handler, 503, "the queue is full", Retry_After="0")
        elif number == 3:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b"cut off")
            handler.close_connection = True
        else:
            give(handler, 200, *stub.answer(asked))

    with serving(exported, script) as stub, Client(stub.url, folder, deadline=60) as client:
        (answer,) = client.classify(some(1))
    assert len(stub.asked) == 4
    assert {asked.body for asked in stub.asked} == {stub.asked[0].body}
    assert answer.id == stub.asked[0].about["id"]


def test_a_connection_that_the_server_has_closed_meanwhile_is_no_try(made):
    folder, exported = made

    def script(handler, asked, number):
        give(handler, 200, *stub.answer(asked))
        handler.close_connection = number < 3  # which the client is not told

    with serving(exported, script) as stub, Client(stub.url, folder, retries=0) as client:
        for i in range(4):
            assert client.classify(some(1, i))
            time.sleep(0.02)
    assert len(stub.asked) == 4


@pytest.mark.parametrize("status", [408, 502, 503, 504])
def test_what_may_pass_is_tried_again_and_then_said(made, status):
    folder, exported = made
    with (
        serving(exported, lambda handler, *_: refuse(handler, status, "busy")) as stub,
        Client(stub.url, folder, retries=1) as client,
        pytest.raises(
            ServerError, match=rf"does not answer: status {status}: busy \(request .*, tries: 2\); try later"
        ),
    ):
        client.classify(some(1))
    assert len(stub.asked) == 2


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, UserError, r"refuses with status 400: no such \[31mmodel \(ask its owner about"),
        (401, UserError, r"it wants a token; name a file with one"),
        (404, UserError, r"device and server must come from one export"),
        (413, UserError, r"send fewer images at once"),
        (429, UserError, r"refuses with status 429"),
        (500, ServerError, r"fails with status 500: no such \[31mmodel; ask its owner about"),
        (307, ServerError, r"redirects to http://elsewhere.example/, which is not followed; give the server's own url"),
    ],
)
def test_any_other_refusal_is_said_once_in_one_line(made, status, kind, words):
    folder, exported = made

    def script(handler, *_):
        refuse(handler, status, "no such\n\x1b[31mmodel", Location="http://elsewhere.example/")

    with (
        serving(exported, script) as stub,
        Client(stub.url, folder) as client,
        pytest.raises(kind, match=words) as caught,
    ):
        client.classify(some(1))
    assert len(stub.asked) == 1
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_a_server_that_wants_more_patience_than_there_is_ends_the_call(made):
    folder, exported = made
    with (
        serving(exported, lambda handler, *_: refuse(handler, 503, "draining", Retry_After="3600")) as stub,
        Client(stub.url, folder) as client,
        pytest.raises(ServerError, match=r"status 503: draining \(request .*, tries: 1\)"),
    ):
        client.classify(some(1))
    assert len(stub.asked) == 1


def test_the_deadline_ends_a_call_that_nobody_answers(made):
    listening, url = stub_server.silent_port()
    words = r"no answer within 0\.2 s \(request .*\); try later, or raise"
    with listening, Client(url, made[0], deadline=0.2) as client, pytest.raises(ServerError, match=words):
        client.classify(some(1))


def test_the_deadline_ends_an_answer_that_drips(made):
    folder, exported = made
    over = threading.Event()

    def script(handler, asked, _):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        for _ in range(100):  # each byte comes well before the deadline
            if over.wait(0.05):
                return
            handler.wfile.write(b"x")
        header, tensors = stub.answer(asked)
        sizes = f"\r\nContent-Length: {len(header + tensors)}\r\n{stub_server.LENGTH}: {len(header)}\r\n\r\n"
        handler.wfile.write(sizes.encode() + header + tensors)

    with (
        serving(exported, script) as stub,
        Client(stub.url, folder, deadline=0.3) as client,
        pytest.raises(ServerError, match=r"no answer within 0\.3 s"),
    ):
        client.classify(some(1))
    over.set()


def test_a_server_that_is_not_there_is_tried_again_and_then_said(made):
    listening, url = stub_server.silent_port()
    listening.close()
    words = r"no connection \(.*refused\) \(request .*, tries: 2\)"
    with Client(url, made[0], retries=1) as client, pytest.raises(ServerError, match=words):
        client.classify(some(1))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "another"}, "the id 'another', which is another request's"),
        ({"model_name": "other-1"}, "what the model 'other-1' says"),
        ({"outputs": []}, "0 outputs"),
        ({"outputs": {}}, "JSON without a list of outputs"),
        ({"output": {"shape": [3, 1]}}, r"not \('logits', 'FP32', \[1, 3\]\)"),
        ({"output": {"datatype": "FP64"}}, "'FP64'"),
        ({"output": {"parameters": {"binary_data_size": 8}}}, "12 bytes of logits, announced as 8; expected 12"),
        ({"output": {"parameters": {}, "data": ["a", 1, 2]}}, "logits that are no numbers"),
        ({"output": {"parameters": {}, "data": [1, 2]}}, "2 logits; expected 3"),
        ({"output": {"parameters": {}, "data": [1, 2, float("nan")]}}, "logits that are not finite"),
    ],
)
def test_an_answer_that_is_not_to_the_request_is_refused(made, change, words):
    folder, exported = made

    def script(handler, asked, _):
        give(handler, 200, *stub.answer(asked, **change))

    with (
        serving(exported, script) as stub,
        Client(stub.url, folder) as client,
        pytest.raises(ServerError, match=f"answers with .*{words}"),
    ):
        client.classify(some(1))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no answer in HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1,", "what is not JSON"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nInference-Header-Content-Length: 9\r\n\r\n{}",
            "a header of '9' bytes in 2",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nInference-Header-Content-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
            "a header of '9+ bytes in 2",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n{}",
            "no answer in HTTP .a chunk of a wrong length",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + bytes(9 * 2**20),
            "an answer of more than 8,388,608 bytes",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + bytes(5 * 2**20), "an answer of more than"),
    ],
)
def test_what_is_no_answer_at_all_is_one_line(made, answer, words):
    folder, exported = made

    def script(handler, *_):
        handler.wfile.write(answer)
        handler.close_connection = True

    with (
        serving(exported, script) as stub,
        Client(stub.url, folder) as client,
        pytest.raises(ServerError, match=words),
    ):
        client.classify(some(1))
    assert len(stub.asked) == 1


def test_an_identical_image_gets_its_remembered_wire(made):
    folder, exported = made
    one, other = some(2)
    with serving(exported) as stub, Client(stub.url, folder, remember=2) as client:
        client.classify([one, other, one])
        client.classify([one])
        client.classify(some(2, 5))  # two others push it out
        client.classify([one])
    first, again, _, later = (asked.wires for asked in stub.asked)
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(first[0], again[0])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], later[0])


def test_without_memory_each_wire_is_new(made):
    folder, exported = made
    image = some(1)
    with serving(exported) as stub, Client(stub.url, folder, remember=0) as client:
        for _ in range(20):
            client.classify(np.concatenate([image, image]))
    assert len({wire.tobytes() for asked in stub.asked for wire in asked.wires}) > 30


def test_a_token_goes_into_a_header_and_into_no_message(made, tmp_path, monkeypatch):
    folder, exported = made
    monkeypatch.setenv("SPLITVEIL_TOKEN", "from-the-environment")
    (tmp_path / "token").write_text("from-a-file\n")

    def script(handler, asked, _):
        refuse(handler, 401, "unknown token")

    with serving(exported, script) as stub:
        for token, sent in ((None, "from-the-environment"), (tmp_path / "token", "from-a-file"), ("given", "given")):
            with Client(stub.url, folder, token=token) as client:
                with pytest.raises(UserError, match="the server knows no such token; check it") as caught:
                    client.classify(some(1))
                assert sent not in repr(client._sender)
            assert stub.asked[-1].headers["Authorization"] == f"Bearer {sent}"
            assert sent not in str(caught.value)
    assert json.dumps(stub.asked[-1].about).count("given") == 0


@pytest.mark.parametrize("when", ["soon", "9" * 5000, "Mon, 01 Jan 2001 00:00:00 +99999999999999999999"])
def test_a_time_to_ask_again_that_is_none_is_one_line(made, when):
    folder, exported = made

    def script(handler, *_):
        refuse(handler, 503, "busy", Retry_After=when)

    with (
        serving(exported, script) as stub,
        Client(stub.url, folder, retries=0) as client,
        pytest.raises(ServerError, match="does not answer: status 503: busy"),
    ):
        client.classify(some(1))
