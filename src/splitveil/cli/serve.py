"""`splitveil serve` and `splitveil token`."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import UserError
from ..serving.limits import Limits
from ._shared import MaybePlace, Place, app, say

Switch = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Page:
    """The page that the server hands out.

    Args:
        demo: Hand out the page of the bundle at / (`splitveil page`).
        runtime: For --demo: folder dist of onnxruntime-web 1.30.0.
        examples: For --demo: folder of pictures that the page offers.
    """

    demo: Switch = False
    runtime: MaybePlace = None
    examples: MaybePlace = None

    def of(self, bundle: Path) -> str | None:
        """Return the HTML of the page; None where it was not asked for."""
        if not self.demo:
            if self.runtime or self.examples:
                raise UserError("--runtime and --examples belong to --demo; add it, or leave them out")
            return None
        if self.runtime is None:
            raise UserError("--demo needs the browser's runtime: give its folder with --runtime (docs/page.md)")
        from ..deploy import page as making

        return making.of(bundle, self.runtime, self.examples)[1]

    @property
    def image(self) -> str | None:
        """Return a picture that the page offers, for the command that the server prints; None where it offers none."""
        from ..deploy import page as making

        return str(making.pictures_in(self.examples)[0]) if self.demo and self.examples else None


@app.command
def serve(
    bundle: Place,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    grpc_port: int | None = None,
    tls_cert: MaybePlace = None,
    tls_key: MaybePlace = None,
    token_file: MaybePlace = None,
    workers: int = 1,
    on: str = "local",
    replicas: int | None = None,
    metrics_port: int | None = None,
    insecure: Switch = False,
    page: Page | None = None,
    limits: Annotated[Limits | None, Parameter(name="*")] = None,
) -> None:
    """Serve the cloud part of a bundle: the Open Inference Protocol v2 over HTTP and gRPC (docs/serve.md).

    Args:
        bundle: BUNDLE or BUNDLE/cloud.
        host: Address to listen on. One that other machines reach needs TLS and tokens.
        port: Its port; 0: any that is free.
        grpc_port: Port for gRPC, the same protocol and limits; 0: any that is free; without it, HTTP only.
        tls_cert: PEM file of the certificate and its chain, read again on SIGHUP.
        tls_key: PEM file of its key, not encrypted.
        token_file: File of tokens (`splitveil token`), read again when it changes; without it, everybody may ask.
        workers: Processes, each with its own copy of the model, that share the port. The limits hold for each.
        on: local, or ray: the same over HTTP in replicas on the Ray cluster that RAY_ADDRESS names.
        replicas: For --on ray: processes on the cluster, each with a processor; 1 unless you say more.
        metrics_port: Port of this machine that tells Prometheus what was counted; 0: any that is free.
        insecure: Listen beyond this machine without TLS or without tokens.
        page: The page that the server hands out.
        limits: The limits of each process.
    """
    try:
        from ..serving import serve as serving
    except ImportError as error:
        raise UserError(f"serve needs the package {error.name}; pip install 'splitveil[deploy]'") from None
    from ..serving.settings import Settings, check

    page = page or Page()
    cert, key, tokens = (None if place is None else str(place.absolute()) for place in (tls_cert, tls_key, token_file))
    doors = (host, port, grpc_port, cert, key, tokens, workers)
    many = _replicas(on, replicas, page.demo)
    settings = Settings(str(bundle), *doors, many, metrics_port, insecure, limits=limits or Limits())
    check(settings)
    html = page.of(bundle)
    serving.launch(replace(settings, image=page.image), html)


def _replicas(on: str, replicas: int | None, demo: bool) -> int | None:
    """Return the replicas on Ray; None for a server of this machine."""
    if on not in ("local", "ray"):
        raise UserError(f"--on {on!r:.80}; expected local or ray")
    if on == "local":
        if replicas is not None:
            raise UserError("--replicas belongs to --on ray; on this machine, say --workers")
        return None
    if demo:
        raise UserError("--demo does not go with --on ray; write the page with `splitveil page`, and host it yourself")
    return 1 if replicas is None else replicas


@app.command
def token(name: str, *, file: MaybePlace = None) -> None:
    """Make a token for a client of `splitveil serve` and print it, once: nothing keeps it but its SHA-256.

    Args:
        name: Whose it is; the log shows this name.
        file: The server's --token-file, to which its line is added. A running server reads it within a second.
    """
    from ..serving import tokens

    made, line = tokens.make(name, file)
    say(made)
    if file is None:
        print(f"its line for the server's --token-file: {line}", file=sys.stderr)
