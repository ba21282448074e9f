"""The command line: it parses, calls and prints. All that it does can be done from Python too."""

from __future__ import annotations

import io
import sys

from cyclopts import CycloptsError
from pydantic import ValidationError

from .. import config
from ..errors import UserError
from ..nn.allocator import keep_memory
from ..storage.files import within_reach
from . import (  # noqa: F401 (they register)
    attack,
    audit,
    bench,
    compare,
    diagnose,
    export,
    harden,
    page,
    query,
    report,
    serve,
    serve_demo,
    tools,
    train,
)
from ._shared import app
from ._usage import explained

LONGEST_WORD = 300
"""Most letters of a word of a message: more than the path of any usual file has."""
KEPT = {
    "attack": "finished attacks and epochs are kept, the same command goes on",
    "audit": "finished attacks and bounds are kept, the same command goes on",
    "train": "finished epochs are kept, --resume goes on",
    "harden": "finished steps are kept, --resume goes on",
    "diagnose": "finished epochs are kept, the same command goes on",
    "bench": "finished cells and epochs are kept, the same command goes on",
}
"""Hints about what a command that was stopped has left."""


def main(tokens: list[str] | None = None) -> None:
    """Run the command: bad input is one line on standard error and exit code 2, Ctrl-C is 130."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # one that knows no λ shows \\u03bb instead of ending in a traceback
            stream.reconfigure(errors="backslashreplace")
    keep_memory()
    try:
        with within_reach():
            app(tokens, exit_on_error=False, print_error=False)
    except (UserError, CycloptsError) as error:
        print(f"splitveil: {_line(_explained(error))}", file=sys.stderr)
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


def _explained(error: UserError | CycloptsError) -> str:
    if isinstance(error.__cause__, ValidationError):
        return config.explain(error.__cause__)
    return explained(error) if isinstance(error, CycloptsError) else str(error)


def _line(text: str) -> str:
    r"""Return a text as one line, in which no word is so long that it hides the others.

    >>> _line("it is\n" + "9" * 5000)
    'it is 999999999999999999999999999999... (5000 letters)'
    """
    words = (word if len(word) <= LONGEST_WORD else f"{word[:30]}... ({len(word)} letters)" for word in text.split())
    return " ".join(words)


def _of_memory(error: Exception) -> bool:
    """Return whether an error says that memory is used up: of Python, of a GPU or of torch's allocator on a CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported for this
        or "DefaultCPUAllocator" in str(error)
    )
