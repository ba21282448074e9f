"""A process of the server: ``python -m splitveil.serving SETTINGS [PORT METRICS PLACE]``; the latter for workers."""

from __future__ import annotations

import sys

from ..errors import UserError
from .serve import main, work

if __name__ == "__main__":
    try:
        if len(sys.argv) == 2:
            code = main(sys.argv[1])
        else:
            code = work(sys.argv[1], *map(int, sys.argv[2:]))
    except UserError as error:
        sys.stderr.write(f"splitveil: {error}\n")
        code = 2
    raise SystemExit(code)
