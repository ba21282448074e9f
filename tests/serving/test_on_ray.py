"""The door on Ray: what is refused, what Ray is told, and the application of a replica.

Ray itself runs in benchmarks/serving_ray.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from types import SimpleNamespace

import pytest

import served
from commands import answer
from served import asked, some_wires
from splitveil.errors import UserError
from splitveil.serving import on_ray, tokens
from splitveil.serving.settings import Settings, check


class Serve:
    """Takes what Ray Serve is told, and lets a test stop the server once it runs."""

    def __init__(self, fails=False):
        self.told, self.fails = {}, fails

    def start(self, http_options):
        self.told["http"] = http_options

    def ingress(self, build):
        return lambda: build

    def deployment(self, build):
        self.build = build
        return SimpleNamespace(options=self.options)

    def options(self, **more):
        self.told["options"] = more
        return SimpleNamespace(bind=lambda: self.build)

    def run(self, build, name, route_prefix):
        if self.fails:
            raise RuntimeError("Deploying application splitveil failed: secret\nTraceback")
        self.told["run"] = name, route_prefix

    def delete(self, name):
        self.told["deleted"] = name

    def shutdown(self):
        self.told["shut down"] = True


class Ray:
    def __init__(self, processors=2):
        self.told, self.processors = {}, processors

    def init(self, **more):
        self.told |= more

    def cluster_resources(self):
        return {"CPU": float(self.processors)}

    def shutdown(self):
        self.told["shut down"] = True


@pytest.fixture
def cluster(monkeypatch):
    """Replace Ray; signals and variables are as before afterwards."""
    ray, serve = Ray(), Serve()
    monkeypatch.setattr(on_ray, "_packages", lambda: (ray, serve))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name in on_ray.ENVIRONMENT:
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield ray, serve
    for number, handler in before.items():
        signal.signal(number, handler)


def stop():
    os.kill(os.getpid(), signal.SIGTERM)


def test_ray_is_told_the_limits_and_serves_until_it_is_stopped(cluster, bundle_folder):
    ray, serve = cluster
    settings = Settings(str(bundle_folder), port=18, replicas=2)
    assert on_ray.run(settings, stop) == 0
    assert ray.told["runtime_env"] == {"working_dir": str((bundle_folder / "cloud").resolve())}
    options = serve.told["options"]
    assert (options["num_replicas"], options["max_ongoing_requests"], options["max_queued_requests"]) == (2, 256, 1024)
    assert (serve.told["http"]["host"], serve.told["http"]["port"]) == ("127.0.0.1", 18)
    assert serve.told["run"] == ("splitveil", "/")
    assert serve.told["deleted"] == "splitveil"
    assert serve.told["shut down"]
    assert ray.told["shut down"]
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_cluster_of_others_goes_on(cluster, bundle_folder, monkeypatch):
    _, serve = cluster
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert on_ray.run(Settings(str(bundle_folder / "cloud"), replicas=1), stop) == 0
    assert serve.told["deleted"] == "splitveil"
    assert "shut down" not in serve.told
    assert "RAY_SERVE_ENABLE_HA_PROXY" not in os.environ


def test_a_replica_answers_as_the_server_does(bundle, bundle_folder, tmp_path, monkeypatch):
    token, _ = tokens.make("ann", tmp_path / "tokens")
    monkeypatch.chdir(bundle_folder / "cloud")
    application = on_ray.application(Settings("elsewhere", token_file=str(tmp_path / "tokens")))
    door = served.Door(SimpleNamespace(served=SimpleNamespace(model=bundle.model_name)), application, None)  # type: ignore[arg-type]
    wires = some_wires(3)
    body, headers = asked(wires)
    good = asyncio.run(door.ask("POST", door.infer, body, {**headers, "authorization": f"Bearer {token}"}))
    assert good.status == 200
    assert (good.logits == served.expected(bundle, wires)).all()
    assert asyncio.run(door.ask("POST", door.infer, body, headers)).status == 401


def test_what_goes_wrong_is_one_line(cluster, bundle_folder, monkeypatch):
    ray, serve = cluster
    settings = Settings(str(bundle_folder), replicas=3)
    with pytest.raises(UserError, match="--replicas 3 take a processor each, and the Ray cluster has 2"):
        on_ray.run(settings, stop)
    assert ray.told["shut down"]
    serve.fails, ray.processors = True, 4
    with pytest.raises(UserError, match=r"could not start the replicas \(Deploying.*secret\)"):
        on_ray.run(settings, stop)

    def nowhere(**more):
        raise ConnectionError("Could not find any running Ray instance\nat all")

    ray.init = nowhere
    with pytest.raises(UserError, match="no Ray cluster on this machine: Could not find any running Ray instance;"):
        on_ray.run(settings, stop)
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs the package ray; pip install 'splitveil\[ray-serve\]'"):
        on_ray._packages()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"replicas": 0}, "--replicas 0; expected at least 1"),
        ({"replicas": 1, "workers": 2}, "--workers does not go with --on ray"),
        ({"replicas": 1, "grpc_port": 0}, "--grpc-port does not go with --on ray"),
        ({"replicas": 1, "metrics_port": 0}, "--metrics-port does not go with --on ray"),
        ({"replicas": 1, "port": 0}, "--port 0 does not go with --on ray"),
    ],
)
def test_settings_that_cannot_be(more, words):
    with pytest.raises(UserError, match=words):
        check(Settings("b", **more))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--on", "slurm"], "--on 'slurm'; expected local or ray"),
        (["--replicas", "2"], "--replicas belongs to --on ray"),
        (["--on", "ray", "--demo"], "--demo does not go with --on ray"),
    ],
)
def test_options_that_cannot_be(bundle_folder, more, words):
    code, error = answer("serve", bundle_folder, *more)
    assert (code, words in error) == (2, True), error
