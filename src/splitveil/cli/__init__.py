"""The command: parses, calls, prints. Everything it does can be done from Python too."""

from __future__ import annotations

import errno
import io
import sys

from cyclopts import CycloptsError
from pydantic import ValidationError

from .. import config
from ..errors import UserError
from . import attack, bench, compare, report, tools, train  # noqa: F401 (importing a module registers its commands)
from ._shared import app

KEPT = {
    "train": "finished epochs are kept, --resume goes on",
    "bench": "finished cells and epochs are kept, the same command goes on",
}
"""What a command that was stopped has left."""


def main(tokens: list[str] | None = None) -> None:
    """Entry point: bad input is one line on standard error and exit code 2, Ctrl-C is 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # one that knows no λ shows \\u03bb instead of ending in a traceback
            stream.reconfigure(errors="backslashreplace")
    try:
        app(tokens, exit_on_error=False, print_error=False)
    except (UserError, CycloptsError) as error:
        cause = error.__cause__
        line = " ".join((config.explain(cause) if isinstance(cause, ValidationError) else str(error)).split())
        print(f"splitveil: {line}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # any other is not the user's mistake
            raise
        name = str(error.filename)
        shown = name if len(name) <= 60 else f"{name[:60]}..."
        print(f"splitveil: {shown}: the name is too long; expected at most 255 bytes", file=sys.stderr)
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not _of_memory(error):
            raise
        reason = str(error).partition("\n")[0][:200] or "Python could not allocate any more"
        print(f"splitveil: out of memory ({reason}); lower batch sizes, or run less beside it", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        command = next(iter(tokens or sys.argv[1:]), "")
        print(f"splitveil: stopped; {KEPT.get(command, 'nothing half-written is left')}", file=sys.stderr)
        raise SystemExit(130) from None


def _of_memory(error: Exception) -> bool:
    """Whether an error says that memory is used up: of Python, of a GPU or of torch's allocator on a processor."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for this
        or "DefaultCPUAllocator" in str(error)
    )
