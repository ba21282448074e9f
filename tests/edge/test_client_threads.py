"""A client that threads and forks of a process share, against a server that a test steers."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest

import small_bundle
from splitveil_edge import Client, bundle, encode
from stub_server import serving


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("edge") / "bundle"
    return folder, small_bundle.make(folder)


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


def test_two_threads_that_fork_at_once_give_back_what_they_took(made):
    folder, exported = made
    with serving(exported) as stub, Client(stub.url, folder) as client:
        client._wires.lock.acquire()  # a third thread makes wires
        children: list[int] = []

        def fork() -> None:
            child = os.fork()
            if child == 0:
                os._exit(0)
            children.append(child)

        both = [threading.Thread(target=fork) for _ in range(2)]
        for one in both:
            one.start()
        time.sleep(0.1)
        client._wires.lock.release()
        for one in both:
            one.join(30)
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
        assert client._wires.lock.acquire(timeout=5)
        client._wires.lock.release()
        assert len(client.classify(some(2))) == 2


def test_threads_that_share_a_client_get_their_own_answers_and_one_wire_for_one_image(made):
    folder, exported = made
    wrong, images = [], some(40)

    def work(client, seed):
        for i in np.random.default_rng(seed).permutation(40):
            (answer,) = client.classify(images[i : i + 1])
            by_id[answer.id] = (i, answer.logits)

    by_id = {}
    with serving(exported) as stub, Client(stub.url, folder, deadline=60) as client:
        threads = [threading.Thread(target=work, args=(client, seed)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(by_id) == len(stub.asked) == 240
    wires = {}
    for asked in stub.asked:
        i, logits = by_id[asked.about["id"]]
        wires.setdefault(i, set()).add(asked.wires.tobytes())
        wrong += [] if np.array_equal(stub.tail(asked.wires)[0], logits) else [i]
    assert wrong == []
    assert {len(seen) for seen in wires.values()} == {1}


def test_threads_with_one_new_image_wait_for_its_wire(made):
    wires, image, sent = encode.Wires(bundle.read(made[0]), 4), some(1), []
    encoder = wires._encoder

    def slow(images):
        found = encoder(images)
        time.sleep(0.1)
        return found

    wires._encoder = slow  # type: ignore[assignment]
    threads = [threading.Thread(target=lambda: sent.extend(wires.of(image))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 3
    assert len(set(sent)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_fork_has_its_own_connections_and_other_noise_but_the_same_memory(made):
    folder, exported = made
    images, known = some(30), some(1, 9)
    with serving(exported) as stub, Client(stub.url, folder, deadline=60) as client:
        client.classify(known)  # a connection is kept now
        stop = threading.Event()
        beside = threading.Thread(target=lambda: [client.classify(some(1, 1000 + i)) for i in range(20)] and stop.set())
        beside.start()
        children = []
        for _ in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    answers = client.classify(images) + client.classify(known)
                    code = 0 if len(answers) == 31 else 1
                finally:
                    os._exit(code)
            children.append(child)
        client.classify(images)
        client.classify(known)
        beside.join()
        assert stop.is_set()
        assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    sent = [asked.wires for asked in stub.asked if len(asked.wires) == 30]
    assert len(sent) == 4
    assert all(not np.array_equal(a, b) for i, a in enumerate(sent) for b in sent[:i])
    first = stub.asked[0].wires.tobytes()
    assert sum(asked.wires.tobytes() == first for asked in stub.asked) == 5
