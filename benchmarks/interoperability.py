"""Is tritonclient, as NVIDIA publishes it, answered by `splitveil serve`, over HTTP and gRPC, with TLS and a token?

    python benchmarks/interoperability.py BUNDLE [--client PYTHON] [--wires 2000] [--out FILE]

PYTHON is an interpreter that has numpy and tritonclient[http,grpc] (this one unless you say more). It asks in every
way that its four clients know; the answers are held against onnxruntime's, number by number.
Writes benchmarks/interoperability.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

SIZES = (1, 3, 64, 256)
"""Images of a request, in turn."""


class Asking:
    """One door, asked by tritonclient. Every question leaves a line in ``found``: whether the answer was right.

    Args:
        module: ``tritonclient.http`` or ``tritonclient.grpc``.
        about: what the server's side has written down: addresses, token, certificate, name, shapes.
    """

    def __init__(self, module: Any, about: dict[str, Any]):
        self.module, self.about = module, about
        self.over_http = module.__name__.endswith("http")
        self.found: dict[str, bool] = {}
        ca = about["ca"]
        if self.over_http:
            self.client = module.InferenceServerClient(
                about["http"], ssl=True, ssl_options={"ca_certs": ca}, concurrency=2
            )
        else:
            self.client = module.InferenceServerClient(about["grpc"], ssl=True, root_certificates=ca)

    def run(self, wires: np.ndarray) -> np.ndarray:
        """Ask everything; return the logits of all wires."""
        self._health()
        self._metadata()
        self._refusals(wires)
        self._forms(wires[:3])
        return np.concatenate([self.logits(part) for part in parts(wires)])

    @property
    def headers(self) -> dict[str, str]:
        """Return new headers: the client for HTTP adds the length of this request's header to what it is given."""
        return {"authorization": f"Bearer {self.about['token']}"}

    def inputs(self, wires: np.ndarray, **more: Any) -> list[Any]:
        """Return the inputs of a request."""
        made = self.module.InferInput("wire", list(wires.shape), self.about["datatype"])
        made.set_data_from_numpy(wires, **more)
        return [made]

    def logits(self, wires: np.ndarray, outputs: Any = None, **more: Any) -> np.ndarray:
        """Return the answer to one request."""
        answer = self.client.infer(
            self.about["model"], self.inputs(wires, **more), outputs=outputs, headers=self.headers
        )
        return answer.as_numpy("logits")

    def refused(self, call: Any, *words: str) -> bool:
        """Return whether a call is refused with these words."""
        from tritonclient.utils import InferenceServerException

        try:
            call()
        except InferenceServerException as error:
            text = f"{error.status()} {error.message()}"
            return all(word in text for word in words)
        return False

    def _health(self) -> None:
        model = self.about["model"]
        self.found["is_server_live"] = self.client.is_server_live()
        self.found["is_server_ready"] = self.client.is_server_ready()
        self.found["is_model_ready"] = self.client.is_model_ready(model, headers=self.headers)

    def _metadata(self) -> None:
        more = {} if self.over_http else {"as_json": True}
        server = self.client.get_server_metadata(headers=self.headers, **more)
        self.found["get_server_metadata"] = server["name"] == "splitveil"
        model = self.client.get_model_metadata(self.about["model"], headers=self.headers, **more)
        shapes = [[int(size) for size in one["shape"]] for one in (*model["inputs"], *model["outputs"])]
        self.found["get_model_metadata"] = model["name"] == self.about["model"] and shapes == self.about["shapes"]

    def _refusals(self, wires: np.ndarray) -> None:
        model, inputs = self.about["model"], self.inputs(wires[:1])
        codes = ("404", "401", "400") if self.over_http else ("NOT_FOUND", "UNAUTHENTICATED", "INVALID_ARGUMENT")
        self.found["another pair is told the served one"] = self.refused(
            lambda: self.client.infer("other-000000000000", inputs, headers=self.headers), codes[0], model
        )
        self.found["no token"] = self.refused(lambda: self.client.infer(model, inputs), codes[1])
        wrong = {"authorization": "Bearer wrong"}
        self.found["a wrong token"] = self.refused(lambda: self.client.infer(model, inputs, headers=wrong), codes[1])
        self.found["another shape"] = self.refused(lambda: self.logits(wires[:1, :-1].copy()), codes[2])

    def _forms(self, wires: np.ndarray) -> None:
        """Ask for the same in other forms."""
        usual = self.logits(wires)
        named = [self.module.InferRequestedOutput("logits")]
        self.found["a named output"] = bool(np.array_equal(self.logits(wires, named), usual))
        model, inputs = self.about["model"], self.inputs(wires)
        answer = self.client.infer(model, inputs, model_version="1", request_id="mine", headers=self.headers)
        about = answer.get_response()
        self.found["request_id and version"] = (about["id"] if self.over_http else about.id) == "mine"
        if self.over_http:
            listed = [self.module.InferRequestedOutput("logits", binary_data=False)]
            answer = self.logits(wires, listed, binary_data=False)
            self.found["JSON both ways"] = bool(np.array_equal(answer, usual))
            waiting = self.client.async_infer(model, inputs, headers=self.headers)
            self.found["async_infer"] = bool(np.array_equal(waiting.get_result().as_numpy("logits"), usual))
            return
        done: list[Any] = []
        called = threading.Event()

        def back(result: Any, error: Any) -> None:
            done.append(result if error is None else None)
            called.set()

        self.client.async_infer(model, inputs, back, headers=self.headers)
        called.wait(30)
        self.found["async_infer"] = bool(done and done[0] and np.array_equal(done[0].as_numpy("logits"), usual))


def parts(wires: np.ndarray) -> list[np.ndarray]:
    """Return the wires in requests of changing sizes."""
    found, at = [], 0
    while at < len(wires):
        size = SIZES[len(found) % len(SIZES)]
        found.append(wires[at : at + size])
        at += size
    return found


async def without_blocking(about: dict[str, Any], wires: np.ndarray) -> dict[str, np.ndarray]:
    """Return the logits that the asynchronous clients get."""
    import asyncio
    import ssl

    import tritonclient.grpc.aio as over_grpc
    import tritonclient.http.aio as over_http

    context = ssl.create_default_context(cafile=about["ca"])
    found = {}
    for name, module, client in [
        ("http.aio", over_http, over_http.InferenceServerClient(about["http"], ssl=True, ssl_context=context)),
        (
            "grpc.aio",
            over_grpc,
            over_grpc.InferenceServerClient(about["grpc"], ssl=True, root_certificates=about["ca"]),
        ),
    ]:

        async def ask(part: np.ndarray, module: Any = module, client: Any = client) -> np.ndarray:
            made = module.InferInput("wire", list(part.shape), about["datatype"])
            made.set_data_from_numpy(part)
            headers = {"authorization": f"Bearer {about['token']}"}
            return (await client.infer(about["model"], [made], headers=headers)).as_numpy("logits")

        split = parts(wires)
        answers = []
        for at in range(0, len(split), 8):
            answers += await asyncio.gather(*map(ask, split[at : at + 8]))
        found[name] = np.concatenate(answers)
        await client.close()
    return found


def client(folder: Path) -> None:
    """Ask a server as ``folder/about.json`` says; leave answers and findings beside it."""
    import asyncio
    from importlib.metadata import version

    import tritonclient.grpc
    import tritonclient.http

    about = json.loads((folder / "about.json").read_text())
    wires = np.load(folder / "wires.npy")
    answers, found = {}, {}
    for name, module in (("http", tritonclient.http), ("grpc", tritonclient.grpc)):
        asking = Asking(module, about)
        answers[name] = asking.run(wires)
        asking.client.close()
        found[name] = asking.found
    answers |= asyncio.run(without_blocking(about, wires))
    names = ("tritonclient", "grpcio", "protobuf", "geventhttpclient", "aiohttp")
    versions = {name: version(name) for name in names}
    np.savez(folder / "answers.npz", **answers)
    (folder / "found.json").write_text(json.dumps({"versions": versions, "checks": found}))


def some_wires(offered: Any, count: int) -> np.ndarray:
    """Return random wires of the type that a model takes."""
    rng = np.random.default_rng(0)
    if offered.datatype == "UINT8":
        return rng.integers(0, 256, (count, offered.values), np.uint8)
    return rng.normal(size=(count, offered.values)).astype(offered.dtype)


def measure(bundle: Path, python: str, count: int, folder: Path) -> dict[str, Any]:
    """Return what tritonclient finds at a server of a bundle.

    Args:
        bundle: the bundle.
        python: interpreter that has tritonclient.
        count: wires.
        folder: for files that are passed on.
    """
    import certificates
    import served
    from splitveil.deploy.bundle import read
    from splitveil.serving import tokens
    from splitveil.serving.limits import Limits
    from splitveil.serving.served import Served
    from splitveil.serving.settings import Settings
    from splitveil.serving.tail import session

    opened = read(bundle)
    offered = Served.of(opened, Limits())
    wires = some_wires(offered, count)
    certificate, key = certificates.make(folder)
    token, _ = tokens.make("triton", folder / "tokens")
    settings = Settings(
        str(bundle),
        port=0,
        grpc_port=0,
        tls_cert=str(certificate),
        tls_key=str(key),
        token_file=str(folder / "tokens"),
        limits=Limits(answer_seconds=120),  # a machine that does other things too
    )
    model = offered.metadata()
    with served.started(settings, folder / "log") as running:
        about = {
            "http": f"127.0.0.1:{running.port}",
            "grpc": running.line.partition("gRPC at ")[2].partition(";")[0],
            "ca": str(certificate),
            "token": token,
            "model": offered.model,
            "datatype": offered.datatype,
            "shapes": [one["shape"] for one in (*model["inputs"], *model["outputs"])],
        }
        (folder / "about.json").write_text(json.dumps(about))
        np.save(folder / "wires.npy", wires)
        subprocess.run([python, __file__, "--as-client", str(folder)], check=True, timeout=600)
        code = running.stop()
    found = json.loads((folder / "found.json").read_text())
    run, batch = session(opened.models["cloud"]), 64
    expected = np.concatenate([run(wires[at : at + batch])[0] for at in range(0, count, batch)])
    with np.load(folder / "answers.npz") as answers:
        equal = {name: bool(np.array_equal(answers[name], expected)) for name in answers.files}
    return {
        "model": opened.model_name,
        "wires": count,
        **found,
        "answers_equal_onnxruntime": equal,
        "server_exit_code": code,
        "held": code == 0 and all(equal.values()) and all(all(checks.values()) for checks in found["checks"].values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--client", default=sys.executable, help="interpreter that has tritonclient")
    parser.add_argument("--wires", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--as-client", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_client:
        client(args.as_client)
        return
    if args.bundle is None:
        parser.error("name a bundle")
    from splitveil import runs
    from splitveil.storage.files import write_json

    with tempfile.TemporaryDirectory() as name:
        found = measure(args.bundle, args.client, args.wires, Path(name))
    print(json.dumps(found, indent=2))
    command = f"python benchmarks/interoperability.py BUNDLE --wires {args.wires}"
    write_json(args.out, {**found, "machine": runs.environment(), "command": command})


if __name__ == "__main__":
    main()
