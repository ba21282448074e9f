"""Start a server: check, open the door, run one worker here or several below a supervisor."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..deploy import bundle
from . import metrics, on_ray, supervisor, tokens, worker
from .metrics import Log
from .service import cloud_of
from .settings import Settings, bound, check, tls_context


def launch(settings: Settings, page: str | None = None) -> None:
    """Become a server: this process is replaced by one that never imports torch, and keeps its number.

    Args:
        settings: checked settings.
        page: HTML that ``/`` hands out.
    """
    if page is not None:
        with tempfile.TemporaryFile() as file:  # no name: it is gone with the last process that has it
            file.write(page.encode())
            file.flush()
            os.set_inheritable(file.fileno(), True)
            _become(replace(settings, page=file.fileno()))
    _become(settings)


def _become(settings: Settings) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(supervisor.COMMAND[0], [*supervisor.COMMAND, settings.to_json()])


def main(text: str) -> int:
    """Run a server until it is told to stop; return its exit code.

    Args:
        text: settings in JSON.

    Raises:
        UserError: settings, bundle, certificate or port cannot be used.
    """
    settings = Settings.from_json(text)
    check(settings)
    tls_context(settings)
    found = bundle.read(settings.bundle)
    cloud_of(found)
    name, shape, log = found.model_name, found.wire["image"]["shape"], Log()
    settings = replace(settings, model=name)
    if settings.replicas is not None:
        del found
        return on_ray.run(settings, lambda: _say(settings, name, shape, settings.port))
    if settings.grpc_port is not None:
        grpc_port, _ = supervisor.reserve(replace(settings, port=settings.grpc_port))
        settings = replace(settings, grpc_port=grpc_port)
    if settings.workers == 1:
        listening = bound(settings, settings.port, several=False)
        port = listening.getsockname()[1]
        del found
        worker.run(settings, listening, lambda: _say(settings, name, shape, port))
        return 0
    del found
    port, _ = supervisor.reserve(settings)
    return asyncio.run(supervisor.Supervisor(settings, port, log).run(lambda: _say(settings, name, shape, port)))


def work(text: str, port: int, handle: int, place: int) -> int:
    """Run one of several workers.

    Args:
        text: settings in JSON.
        port: the port that they share.
        handle: file of their metrics.
        place: which of them this is, from 0.

    Raises:
        UserError: see `main`.
    """
    settings = Settings.from_json(text)
    numbers = metrics.shared(handle, settings.workers)[place]
    listening = bound(settings, port, several=True)
    worker.run(settings, listening, supervisor.tell_ready, numbers, parent=0)
    return 0


def _say(settings: Settings, name: str, shape: Sequence[int], port: int) -> None:
    doors = settings.url(port)
    if settings.grpc_port is not None:
        doors += f"; gRPC at {settings.address(settings.grpc_port)}"
    sys.stdout.write(f"serving {name} at {doors}\nnext: {question(settings, shape, port)}\n")
    sys.stdout.flush()


def question(settings: Settings, shape: Sequence[int], port: int) -> str:
    """Return a command that asks the server, and what to put into it where this machine does not have it.

    Args:
        settings: of the server.
        shape: height, width and channels of an image.
        port: of the server.
    """
    place = Path(settings.bundle)
    device, image = (place.parent if place.name == "cloud" else place) / "device", settings.image
    token = None if settings.token_file is None else tokens.held_by_client(settings.token_file)
    asked = ["splitveil", "query", str(device) if device.is_dir() else "DEVICE", image or "IMAGE"]
    asked += ["--resize", "bilinear"] * (image is not None) + ["--url", settings.url(port)]
    asked += ["--token-file", str(token or "TOKEN")] * (settings.token_file is not None)
    asked += ["--ca", str(settings.tls_cert)] * (settings.tls_cert is not None)
    missing = {
        "DEVICE": "the bundle's folder device",
        "IMAGE": f"the file of a picture of {shape[1]} by {shape[0]} pixels (of another size with --resize bilinear)",
        "TOKEN": "the file in which you keep what `splitveil token` printed",
    }
    told = ", ".join(f"{word} is {what}" for word, what in missing.items() if word in asked)
    return shlex.join(asked) + (f"\n  there {told}" if told else "")
