"""The door for HTTP where answers are late or fail, the queue is full, clients leave, or the server stops."""

from __future__ import annotations

import asyncio
import json
import threading

import numpy as np
import pytest

import served
import small_bundle
from served import ask, check_refusal, one
from splitveil.serving import protocol
from splitveil.serving.limits import Limits


class Held:
    """A model that waits until the test lets it go on, once it has been warmed up."""

    def __init__(self):
        self.open, self.began, self.error = threading.Event(), threading.Event(), None
        self.calls = 0

    def __call__(self, wires):
        self.calls += 1
        if self.calls > 1:
            self.began.set()
            assert self.open.wait(20)
            if self.error:
                raise self.error
        return [np.zeros((len(wires), len(small_bundle.CLASSES)), np.float32)]


@pytest.fixture
def held():
    made = Held()
    yield made
    made.open.set()


def test_a_late_answer_is_504(bundle, held):
    with served.door(bundle, Limits(answer_seconds=0.02), run=held) as door:
        check_refusal(ask(door, "POST", door.infer, one()), 504)
        held.open.set()


def test_a_slow_body_is_408(bundle):
    with served.door(bundle, Limits(body_seconds=0.02)) as door:
        answer = ask(door, "POST", door.infer, [one()[:10], b""], {"Content-Length": "50"})
        assert answer.status == 400  # it came whole
        messages = [{"type": "http.request", "body": b"{", "more_body": True}]
        found = []

        async def go():
            async def receive():
                return messages.pop() if messages else await asyncio.Event().wait()

            async def send(message):
                found.append(message)

            scope = {"type": "http", "method": "POST", "path": door.infer, "headers": [(b"content-length", b"9")]}
            await door.application(scope, receive, send)  # type: ignore[arg-type]

        asyncio.run(go())
        assert found[0]["status"] == 408


def test_a_full_queue_is_503(bundle, held):
    async def go(door):
        first = asyncio.ensure_future(door.ask("POST", door.infer, one()))
        while not held.began.is_set():
            await asyncio.sleep(0.001)
        second = asyncio.ensure_future(door.ask("POST", door.infer, one()))
        while not door.service.tail.waiting:
            await asyncio.sleep(0.001)
        answer = await door.ask("POST", door.infer, one())
        check_refusal(answer, 503)
        assert answer.headers["retry-after"] == "1"
        held.open.set()
        assert [(await one).status for one in (first, second)] == [200, 200]

    with served.door(bundle, Limits(max_images=1, max_queue=1), run=held) as door:
        asyncio.run(go(door))


def test_our_own_fault_is_500_with_an_id_and_no_more(bundle, held):
    held.error = ValueError("secret codes 1 2 3")
    held.open.set()
    with served.door(bundle, run=held) as door:
        answer = ask(door, "POST", door.infer, json.dumps({**json.loads(one()), "id": "mine"}).encode())
        check_refusal(answer, 500)
        assert "mine" in answer.json["error"]
        failed, request = door.lines()
        assert (failed["event"], failed["error"]) == ("batch failed", "ValueError")
        assert failed["place"].startswith("test_app_under_load.py:")
        assert (request["id"], request["status"]) == ("mine", 500)
        assert "secret" not in door.log.getvalue()


def test_a_fault_outside_the_model_is_500_too(bundle, monkeypatch):
    def broken(*args):
        raise KeyError("secret")

    monkeypatch.setattr(protocol, "answer", broken)
    with served.door(bundle) as door:
        check_refusal(ask(door, "POST", door.infer, one()), 500)
        assert [line["event"] for line in door.lines()] == ["error", "request"]
        assert "secret" not in door.log.getvalue()


def test_a_client_that_leaves_is_taken_off_the_queue(bundle, held):
    async def go(door):
        first = asyncio.ensure_future(door.ask("POST", door.infer, one()))
        while not held.began.is_set():
            await asyncio.sleep(0.001)
        assert (await door.ask("POST", door.infer, one(), stays=False)).status == 0
        await asyncio.sleep(0)
        assert door.service.tail.waiting == 0
        held.open.set()
        await first
        assert door.service.active == 0

    with served.door(bundle, run=held) as door:
        asyncio.run(go(door))
        assert [line["reason"] for line in door.lines()] == ["gone", None]


def test_a_server_that_stops_is_not_ready_and_finishes_what_it_took(bundle, held):
    async def go(door):
        first = asyncio.ensure_future(door.ask("POST", door.infer, one()))
        while not held.began.is_set():
            await asyncio.sleep(0.001)
        draining = asyncio.ensure_future(door.service.drain(at_least=0))
        await asyncio.sleep(0)
        for method, path in (("GET", "/v2/health/ready"), ("POST", door.infer)):
            answer = await door.ask(method, path)
            check_refusal(answer, 503)
            assert answer.headers["connection"] == "close"
        assert (await door.ask("GET", "/v2/health/live")).status == 200
        assert not draining.done()
        held.open.set()
        await draining
        answer = await first
        assert (answer.status, answer.headers["connection"]) == (200, "close")

    with served.door(bundle, run=held) as door:
        asyncio.run(go(door))
