"""`splitveil serve-demo`."""

from __future__ import annotations

from pathlib import Path

from .. import progress_bars
from ..errors import UserError
from ._shared import MaybePlace, Place, app, say


@app.command
def serve_demo(*, out: Place = Path("serve-demo"), port: int = 8443, runtime: MaybePlace = None) -> None:
    """Train a small model on digits, export it, and serve a page on which its encoder runs in your browser.

    The server listens on this machine only, with TLS and a token. The training and the browser's runtime
    of an earlier call are used again; certificate and token are new.

    Args:
        out: Folder of the run, the bundle, the certificate and the token file.
        port: Port of the server; 0: any that is free.
        runtime: Folder dist of onnxruntime-web 1.30.0; fetched by npm unless you give one.
    """
    try:
        from ..serving import demo, serve
    except ImportError as error:
        raise UserError(f"serve-demo needs the package {error.name}; pip install 'splitveil[deploy]'") from None

    with progress_bars.bars() as bar:
        task = bar.add_task("serve-demo", total=len(demo.STEPS), note="")
        ready = demo.prepare(out, port, runtime, lambda done, step: bar.update(task, completed=done, note=step))
    say("Open the address below in your browser. It warns of the certificate, which this command has just made.")
    say(f"The page asks for this token: {ready.token}")
    say("Ctrl-C stops the server. After that comes its log, a line for each request.")
    serve.launch(ready.settings, ready.page)
