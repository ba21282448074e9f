"""The client against `splitveil serve` itself: TLS, tokens, another pair, and a server that is killed."""

from __future__ import annotations

import os
import re
import threading

import numpy as np
import pytest

import certificates
import served
import small_bundle
from splitveil.deploy.graphs import Session
from splitveil.serving import tokens
from splitveil.serving.settings import Settings
from splitveil_edge import Client, ServerError, UserError

pytestmark = pytest.mark.skipif(
    certificates.OPENSSL is None or not hasattr(os, "fork"), reason="needs openssl and POSIX signals"
)


def some(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    bundle = small_bundle.make(folder / "b")
    certificate, key = certificates.make(folder)
    token, _ = tokens.make("device", folder / "tokens")
    settings = Settings(
        str(folder / "b" / "cloud"),
        port=0,
        tls_cert=str(certificate),
        tls_key=str(key),
        token_file=str(folder / "tokens"),
    )
    with served.started(settings, folder / "log") as running:
        yield folder, bundle, running.url, {"ca": certificate, "token": token, "deadline": 60}


def test_answers_are_those_of_the_tail_to_the_wires_that_were_sent(service):
    import torch

    folder, bundle, url, how = service
    images = some(300)
    with Client(url, folder / "b/device", remember=400, **how) as client:
        answers = client.classify(images)
        wires = np.frombuffer(b"".join(client._wires.of(images)), np.uint8).reshape(300, -1)
    expected = Session(bundle.models["cloud"])({"wire": torch.from_numpy(wires.copy())}).numpy()
    assert np.allclose(np.stack([answer.logits for answer in answers]), expected, atol=1e-5)
    assert [answer.label for answer in answers] == [small_bundle.CLASSES[i] for i in expected.argmax(1)]


def test_what_it_refuses_is_one_line_with_its_reason(service, tmp_path):
    folder, bundle, url, how = service
    other = small_bundle.make(tmp_path / "other", seed=5)
    for path, change, words in [
        (folder / "b", {"token": "wrong"}, "refuses with status 401: .*the server knows no such token"),
        (folder / "b", {"token": ""}, "refuses with status 401: .*it wants a token; name a file"),
        (tmp_path / "other", {}, rf"status 404: .*{bundle.model_name}.*device and server must come from one export"),
    ]:
        with Client(url, path, **how | change) as client, pytest.raises(UserError, match=words) as caught:
            client.classify(some(1))
        assert "\n" not in str(caught.value)
        assert "wrong" not in str(caught.value)
    assert other.model_name != bundle.model_name


def test_a_server_that_is_killed_is_one_line_and_is_found_when_it_is_back(service, monkeypatch):
    folder, _, _, _ = service
    monkeypatch.setattr("splitveil_edge.retry.LONGEST", 0.2)
    cloud, errors, images = str(folder / "b" / "cloud"), [], some(1)
    with (
        served.started(Settings(cloud, port=0), folder / "killed") as running,
        Client(running.url, folder / "b", deadline=60, retries=2) as client,
    ):
        assert client.classify(images)
        began = threading.Event()

        def ask():
            for seed in range(1_000_000):
                try:
                    client.classify(some(1, seed))
                except ServerError as error:
                    errors.append(str(error))
                    return
                began.set()

        beside = threading.Thread(target=ask)
        beside.start()
        assert began.wait(30)
        running.process.kill()
        beside.join(60)
    assert re.search(r"does not answer: no connection \(.*\) \(request \w+, tries: 3\); try later", errors[0])
    answers = []
    with Client(running.url, folder / "b", deadline=60, retries=1000) as patient:
        waiting = threading.Thread(target=lambda: answers.extend(patient.classify(images)))
        waiting.start()
        with served.started(Settings(cloud, port=running.port), folder / "again"):
            waiting.join(60)
    assert len(answers) == 1
