"""The batcher: each request gets its own rows, whatever is beside it, and whoever leaves."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from splitveil.serving.refusals import Kind, Refusal
from splitveil.serving.tail import Tail


class Model:
    """Answers every wire with its first two numbers, and can be held back."""

    def __init__(self):
        self.open, self.began = threading.Event(), threading.Event()
        self.open.set()
        self.sizes: list[int] = []
        self.poison = -1

    def hold(self) -> None:
        self.open.clear()
        self.began.clear()

    def __call__(self, wires):
        self.began.set()
        assert self.open.wait(20)
        self.sizes.append(len(wires))
        if (wires[:, 0] == self.poison).any():
            raise ValueError("poison")
        return [wires[:, :1] * 2, wires[:, 1:]]


def wires(*first) -> np.ndarray:
    return np.array([[value, -value] for value in first], np.int64)


async def held(tail: Tail, model: Model) -> asyncio.Future:
    """Keep the thread of the model busy with one image until the test opens it."""
    model.hold()
    future = tail.submit(wires(7))
    while not model.began.is_set():
        await asyncio.sleep(0.001)
    return future


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def tail(model):
    made = Tail(model, batch=4, queue=10)
    yield made
    model.open.set()
    made.close()


def test_each_request_gets_its_own_rows_among_many_clients_and_cancellations(model):
    tail = Tail(model, batch=8, queue=2000)

    async def client(number: int) -> int:
        rng, answered = np.random.default_rng(number), 0
        for step in range(40):
            first = number * 100_000 + step * 1000 + np.arange(rng.integers(1, 20))
            future = tail.submit(wires(*first))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.choice([0, 0.0005]))
                future.cancel()
                continue
            doubled, rest = await future
            np.testing.assert_array_equal(doubled[:, 0], 2 * first)
            np.testing.assert_array_equal(rest[:, 0], -first)
            answered += 1
        return answered

    async def everybody() -> list[int]:
        return await asyncio.gather(*(client(number) for number in range(24)))

    assert sum(asyncio.run(everybody())) > 500
    assert max(model.sizes) == 8
    assert tail.waiting == 0
    tail.close()
    assert not tail.alive


def test_it_takes_what_waits_and_no_more_than_a_batch(tail, model):
    async def go():
        first = await held(tail, model)
        futures = [tail.submit(wires(value)) for value in range(6)]
        assert tail.waiting == 6
        model.open.set()
        await asyncio.gather(first, *futures)

    asyncio.run(go())
    assert model.sizes == [1, 4, 2]


def test_a_large_request_goes_through_several_batches(tail, model):
    async def go():
        first = await held(tail, model)
        large, small = tail.submit(wires(*range(9))), tail.submit(wires(50))
        model.open.set()
        await first
        np.testing.assert_array_equal((await large)[0][:, 0], 2 * np.arange(9))
        assert (await small)[0].tolist() == [[100]]

    asyncio.run(go())
    assert model.sizes == [1, 4, 4, 2]


def test_who_is_cancelled_leaves_the_queue(tail, model):
    async def go():
        first = await held(tail, model)
        futures = [tail.submit(wires(value, value)) for value in range(5)]
        with pytest.raises(Refusal) as refused:
            tail.submit(wires(9))
        assert refused.value.kind is Kind.busy
        for future in futures[:4]:
            future.cancel()
        await asyncio.sleep(0)
        assert tail.waiting == 2
        model.open.set()
        assert (await futures[4])[0].tolist() == [[8], [8]]
        await first

    asyncio.run(go())
    assert model.sizes == [1, 2]


def test_a_failure_is_that_batch_alone(model):
    errors: list[Exception] = []
    tail, model.poison = Tail(model, batch=4, queue=100, failed=errors.append), 3

    async def go():
        first = await held(tail, model)
        poisoned = tail.submit(wires(*range(6)))  # two batches, of which the second is never asked for
        good = tail.submit(wires(20, 21))
        model.open.set()
        await first
        with pytest.raises(Refusal) as refused:
            await poisoned
        assert refused.value.kind is Kind.internal
        assert (await good)[0].tolist() == [[40], [42]]

    asyncio.run(go())
    assert [type(error) for error in errors] == [ValueError]
    assert tail.waiting == 0
    tail.close()


def test_a_closed_tail_refuses_what_waits_and_whatever_comes(model):
    tail = Tail(model)

    async def go():
        first = await held(tail, model)
        waiting = tail.submit(wires(1))
        closing = asyncio.ensure_future(asyncio.to_thread(tail.close))
        for refused in (waiting, None):
            with pytest.raises(Refusal) as why:
                await (refused or tail.submit(wires(2)))
            assert why.value.kind is Kind.draining
        model.open.set()
        await closing
        assert (await first)[0].tolist() == [[14]]

    asyncio.run(go())
    assert not tail.alive


def test_who_asked_from_a_loop_that_is_closed_harms_nobody(tail, model):
    async def ask():
        await held(tail, model)

    asyncio.run(ask())
    model.open.set()

    async def again():
        return await tail.submit(wires(4))

    assert asyncio.run(again())[0].tolist() == [[8]]
