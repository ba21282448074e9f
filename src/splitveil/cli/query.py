"""`splitveil query`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from cyclopts import Parameter

from ..errors import UserError
from ._shared import MaybePlace, Place, app, say

INSTALL = "pip install splitveil-edge"


@app.command
def query(
    bundle: Place,
    images: Annotated[list[Place], Parameter(negative="")],
    /,
    *,
    url: str,
    token_file: MaybePlace = None,
    ca: MaybePlace = None,
    deadline: float = 5.0,
    retries: int = 3,
    resize: Literal["bilinear"] | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Ask a server about images, of which it gets the coded and noisy wire only (`splitveil-edge query`).

    Args:
        bundle: BUNDLE/device.
        images: Image files, or .npy of uint8 (H, W, C) or (B, H, W, C).
        url: https://HOST:PORT, or http:// for this machine.
        token_file: File with the token; without it, that of SPLITVEIL_TOKEN. A token is never an argument.
        ca: PEM file of the authority to trust instead of the system's.
        deadline: Seconds that all images may take.
        retries: Most tries after the first; each sends the same bytes.
        resize: bilinear scales images of another size, which are refused otherwise.
        json: Print JSON.
    """
    try:
        import splitveil_edge as edge
        from splitveil_edge import command
    except ImportError as error:
        raise UserError(f"query needs the package {error.name or 'splitveil_edge'}; {INSTALL}") from None
    try:
        server = command.Server(url, token_file, ca, deadline, retries)
        say(command.query(bundle, images, server, resize, json))
    except edge.UserError as error:
        raise UserError(str(error)) from error
    except edge.ServerError as error:
        print(f"splitveil: {error}", file=sys.stderr)
        raise SystemExit(1) from None
