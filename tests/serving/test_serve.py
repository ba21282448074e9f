"""The server as processes: TLS, tokens, signals, workers that die, and what is refused before it starts."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import trustme
from PIL import Image

import served
from commands import answer
from served import asked, some_wires
from splitveil.cli.serve import Page
from splitveil.errors import UserError
from splitveil.serving import serve, settings, worker
from splitveil.serving.limits import Limits
from splitveil.serving.settings import Settings, check
from splitveil.serving.tokens import make


def until(true: Callable[[], object]) -> None:
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


class Authority:
    """A certificate authority and a certificate of it, in files."""

    def __init__(self, folder: Path):
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.context: ssl.SSLContext
        self.renew()

    def renew(self) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.cert.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        self.context = ssl.create_default_context()
        authority.configure_trust(self.context)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def plain(bundle_folder, tmp_path_factory) -> Iterator[served.Running]:
    """Two workers without TLS."""
    with served.started(
        Settings(str(bundle_folder), port=0, workers=2, metrics_port=0), tmp_path_factory.mktemp("log") / "log"
    ) as running:
        yield running


def events(log: Path) -> list[dict]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def children(process: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False)
    return [int(number) for number in found.stdout.split()]


def test_tls_tokens_rotation_new_certificates_and_a_drain_that_loses_nothing(
    bundle_folder, bundle, authority, tmp_path
):
    tokens, wires = tmp_path / "tokens", some_wires(3)
    token, line = make("ann", tokens)
    body, headers = asked(wires, id="mine")
    started = Settings(
        str(bundle_folder / "cloud"),
        port=0,
        tls_cert=str(authority.cert),
        tls_key=str(authority.key),
        token_file=str(tokens),
    )
    old = authority.context
    with served.started(
        started, tmp_path / "log", context=old, headers={"Authorization": f"Bearer {token}"}
    ) as running:
        found = running.ask("POST", infer(bundle), body, headers)
        np.testing.assert_array_equal(found.logits, served.expected(bundle, wires))
        assert running.ask("POST", infer(bundle), body, {**headers, "Authorization": "Bearer x"}).status == 401
        assert "libtorch" not in Path(f"/proc/{running.process.pid}/maps").read_text()

        tokens.write_text("")  # nobody, until there is another
        until(lambda: running.ask("GET", "/v2").status == 401)
        another, _ = make("bob", tokens)
        running.headers = {"Authorization": f"Bearer {another}"}
        until(lambda: running.ask("GET", "/v2").status == 200)

        authority.renew()
        key = authority.key.read_bytes()
        authority.key.write_text("damaged")  # beside a new certificate
        running.process.send_signal(signal.SIGHUP)
        until(lambda: "certificate not read" in running.log.read_text())
        assert running.ask("GET", "/v2").status == 200
        authority.key.write_bytes(key)
        running.process.send_signal(signal.SIGHUP)
        until(lambda: '"certificate read"' in running.log.read_text())
        with pytest.raises(ssl.SSLCertVerificationError):
            running.ask("GET", "/v2")
        running.context = authority.context
        assert running.ask("GET", "/v2").status == 200

        stop_under_load(running, bundle, headers, body)
    text = running.log.read_text()
    assert events(running.log)[-1]["event"] == "stopped"
    secrets = [token, another, line.partition(":")[2], key.decode().splitlines()[1], "127.0.0.1"]
    assert not [secret for secret in secrets if secret in text]
    assert not re.search(r"(\d+, ){3}", text)  # neither codes nor logits


def infer(bundle) -> str:
    return f"/v2/models/{bundle.model_name}/infer"


def stop_under_load(running: served.Running, bundle, headers: dict[str, str], body: bytes) -> None:
    """Stop a server which six clients ask: each request is answered, by 200 or 503, until nobody listens."""
    statuses: list[int] = []
    lost: list[Exception] = []

    def client() -> None:
        while True:
            connection = running.connect()
            try:
                connection.connect()
            except OSError:
                return  # it listens no more
            try:
                while True:
                    found = served.say(connection, "POST", infer(bundle), body, {**running.headers, **headers})
                    statuses.append(found.status)
                    if found.headers.get("connection") == "close":
                        break
            except Exception as error:
                lost.append(error)
            connection.close()

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    until(lambda: len(statuses) > 50)
    assert running.stop() == 0
    for thread in threads:
        thread.join(20)
    assert set(statuses) == {200, 503}
    assert not lost


def test_a_worker_that_is_killed_is_started_again_and_the_other_serves(plain, bundle):
    body, headers = asked(some_wires(1))

    def works() -> bool:
        return plain.ask("POST", infer(bundle), body, headers).status == 200

    assert works()
    first = children(plain.process.pid)
    assert len(first) == 2
    os.kill(first[0], signal.SIGKILL)
    until(lambda: any(line["event"] == "worker ended" and line["code"] == -9 for line in events(plain.log)))
    assert all(works() for _ in range(10))
    until(lambda: len(set(children(plain.process.pid)) - set(first)) == 1)
    until(lambda: all(works() for _ in range(10)))
    assert plain.stop() == 0
    until(lambda: not Path(f"/proc/{first[1]}").exists())


def test_the_line_of_the_start(plain, bundle, bundle_folder):
    address = f"http://127.0.0.1:{plain.port}"
    assert plain.line == f"serving {bundle.model_name} at {address}\n"
    assert [plain.process.stdout.readline() for _ in range(2)] == [
        f"next: splitveil query {bundle_folder / 'device'} IMAGE --url {address}\n",
        "  there IMAGE is the file of a picture of 8 by 8 pixels (of another size with --resize bilinear)\n",
    ]


def test_the_command_that_is_printed_can_be_pasted(bundle_folder, tmp_path):
    place = tmp_path / "a folder"
    place.mkdir()
    picture, kept = place / "dog.png", place / "token"
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(picture)
    kept.write_text(f"{make('ann', place / 'tokens')[0]}\n")
    asked = Settings(str(bundle_folder / "cloud"), port=0, token_file=str(place / "tokens"), image=str(picture))
    with served.started(asked, tmp_path / "log") as running:
        assert running.process.stdout is not None
        words = shlex.split(running.process.stdout.readline().removeprefix("next: "))
        assert words[0] == "splitveil"
        assert {str(picture), str(kept)} < set(words)
        assert answer(*words[1:]) == (0, "")


def test_a_picture_of_the_page_stands_in_the_command(tmp_path):
    for name in ("b.png", "a.png"):
        (tmp_path / name).write_bytes(b"a picture")
    assert Page(demo=True, examples=tmp_path).image == str(tmp_path / "a.png")
    assert Page(demo=True).image is None
    assert Page().image is None


def test_what_this_machine_lacks_is_told(bundle_folder, tmp_path):
    shutil.copytree(bundle_folder / "cloud", tmp_path / "cloud")
    make("ann", tmp_path / "tokens")
    kept = tmp_path / "other.token"
    kept.write_text("of another server\n")
    alone = Settings(str(tmp_path / "cloud"), token_file=str(tmp_path / "tokens"))
    command, told = serve.question(alone, (8, 8, 1), 80).splitlines()
    assert command == "splitveil query DEVICE IMAGE --url http://127.0.0.1:80 --token-file TOKEN"
    assert told.startswith("  there DEVICE is the bundle's folder device, IMAGE is ")
    assert told.endswith(", TOKEN is the file in which you keep what `splitveil token` printed")


def test_nothing_of_the_server_imports_torch(bundle_folder):
    code = (
        "import sys; from splitveil.deploy import bundle; from splitveil.serving import serve, supervisor, worker; "
        "from splitveil.serving.app import app; from splitveil.serving.service import Service; "
        f"service = Service(bundle.read({str(bundle_folder)!r})); app(service); service.close(); "
        "sys.exit('torch' in sys.modules or 'onnx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


BASE = Settings("bundle")
HIGH = Settings("bundle", host="0.0.0.0")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (HIGH, "has no TLS and no tokens"),
        (replace(HIGH, token_file="t"), "has no TLS"),
        (replace(HIGH, tls_cert="c", tls_key="k"), "has no tokens"),
        (replace(BASE, host="::"), "has no TLS and no tokens"),
        (replace(BASE, tls_cert="c"), "needs both"),
        (replace(BASE, workers=0), "--workers 0"),
        (replace(BASE, workers=100_000), "--workers 100000; expected 1 to 256"),
        (replace(BASE, port=-1), "--port -1"),
        (replace(BASE, metrics_port=70000), "--metrics-port 70000"),
        (replace(BASE, host="no such host"), "--host"),
        (replace(BASE, limits=Limits(body_seconds=0)), "body-seconds"),
        (replace(BASE, limits=Limits(max_queue=100)), "shorter than one request"),
        (replace(BASE, limits=Limits(head_seconds=1e10)), "head-seconds is 10000000000.0; .* at most 1,048,576"),
        (replace(BASE, limits=Limits(max_body=2**31)), "body is 2147483648; .* at most 1,073,741,824"),
    ],
)
def test_settings_that_are_refused(given, said):
    with pytest.raises(UserError, match=said):
        check(given)


@pytest.mark.parametrize(
    "given",
    [
        BASE,
        replace(BASE, host="::1"),
        replace(BASE, host="localhost"),
        replace(HIGH, insecure=True),
        replace(HIGH, tls_cert="c", tls_key="k", token_file="t"),
    ],
)
def test_settings_that_are_taken(given):
    check(given)
    assert Settings.from_json(given.to_json()) == given


def test_a_certificate_that_cannot_be_used_is_one_line(authority, tmp_path):
    other = tmp_path / "key.pem"
    other.write_bytes(trustme.CA().private_key_pem.bytes())
    for cert, key in ((authority.cert, tmp_path / "none"), (other, authority.key), (authority.cert, other)):
        with pytest.raises(UserError, match=r"^cannot read "):
            settings.tls_context(Settings("bundle", tls_cert=str(cert), tls_key=str(key)))


def test_a_worker_does_not_serve_another_model_than_its_neighbors(bundle_folder):
    """A bundle may be replaced while a server runs, and a worker that is started again reads it again."""
    with (
        settings.bound(BASE, 0, several=False) as listening,
        pytest.raises(UserError, match=r"holds .* no longer old-1"),
    ):
        worker.run(Settings(str(bundle_folder), model="old-1"), listening, lambda: None)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_port_that_is_taken_is_one_line(bundle_folder, workers):
    with settings.bound(BASE, 0, several=False) as taken:
        taken.listen()
        given = Settings(str(bundle_folder), port=taken.getsockname()[1], workers=workers)
        with pytest.raises(UserError, match="choose another --port"):
            serve.main(given.to_json())


def test_a_bundle_that_is_damaged_or_has_no_cloud_is_one_line(bundle_folder, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle_folder, damaged)
    (damaged / "cloud" / "tail.onnx").write_bytes(b"x")
    for place, said in (
        (damaged, "damaged"),
        (bundle_folder / "device", "device part"),
        (tmp_path / "no", "no bundle"),
    ):
        with pytest.raises(UserError, match=said):
            serve.main(Settings(str(place), port=0).to_json())


def test_no_room_for_temporary_files_is_one_line(bundle_folder, monkeypatch):
    def full(**more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", full)
    with pytest.raises(UserError, match=r"cannot write a temporary file in .*: No space left on device; .* set TMPDIR"):
        serve.main(Settings(str(bundle_folder), port=0).to_json())


def test_the_command_hands_its_flags_to_a_process_without_torch(bundle_folder, monkeypatch):
    became = []
    monkeypatch.setattr(os, "execv", lambda path, words: became.append(words))
    code, error = answer(
        "serve", bundle_folder, "--port", 0, "--workers", 3, "--metrics-port", 9, "--max-images", 5, "--idle-seconds", 2
    )
    assert (code, error) == (0, "")
    ((*start, text),) = became
    assert start[1:] == ["-P", "-m", "splitveil.serving"]
    assert Settings.from_json(text) == Settings(
        str(bundle_folder), port=0, workers=3, metrics_port=9, limits=Limits(max_images=5, idle_seconds=2)
    )


def test_the_command_refuses_in_one_line(bundle_folder):
    for words, said in (
        (["--host", "0.0.0.0"], "can be reached from other machines"),
        (["--demo"], "--runtime"),
        (["--runtime", "x"], "--demo"),
    ):
        code, error = answer("serve", bundle_folder, *words)
        assert code == 2
        assert said in error
        assert error.count("\n") == 1


def test_a_page_is_handed_over_in_a_file_without_a_name(bundle_folder, monkeypatch):
    became = []
    monkeypatch.setattr(
        serve, "_become", lambda given: became.append(settings.content(given.page) if given.page else None)
    )
    serve.launch(Settings(str(bundle_folder)), "<p>page</p>")
    assert became[0] == b"<p>page</p>"
