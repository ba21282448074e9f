"""The command: parses, calls, prints. Everything it does can be done from Python too."""

from __future__ import annotations

import sys

from cyclopts import CycloptsError
from pydantic import ValidationError

from .. import config
from ..errors import UserError
from . import attack, tools, train  # noqa: F401 (importing a module registers its commands)
from ._shared import app


def main(tokens: list[str] | None = None) -> None:
    """Entry point: bad input is one line on standard error and exit code 2, Ctrl-C is 130."""
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except (UserError, CycloptsError) as error:
        cause = error.__cause__
        line = " ".join((config.explain(cause) if isinstance(cause, ValidationError) else str(error)).split())
        print(f"splitveil: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        training = (tokens or sys.argv[1:])[:1] == ["train"]
        kept = "finished epochs are kept, --resume goes on" if training else "nothing half-written is left"
        print(f"splitveil: stopped; {kept}", file=sys.stderr)
        raise SystemExit(130) from None
