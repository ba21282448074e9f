"""What serving_faults.py and grpc_faults.py share: their command line, their record, and a table of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import small_bundle
from splitveil import runs
from splitveil.deploy.bundle import Bundle
from splitveil.storage.files import write_json

Trial = Coroutine[Any, Any, dict[str, Any]]
All = Callable[[Bundle, Path, argparse.Namespace], dict[str, Trial]]


def run(script: Path, about: str, counts: dict[str, int], trials: All) -> None:
    """Make all trials one after the other, print each, and write the record.

    Args:
        script: whose trials they are.
        about: its docstring.
        counts: its options with their defaults.
        trials: called with a tiny bundle, an empty folder and the options.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    for name, count in counts.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    args = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, trial in trials(small_bundle.make(folder / "bundle"), folder, args).items():
            found[title] = asyncio.run(trial)
            print(title, json.dumps(found[title]), flush=True)
    options = " ".join(f"--{name} {getattr(args, name)}" for name in counts)
    command = f"python benchmarks/{script.name} {options}"
    write_json(args.out, {"trials": found, "machine": runs.environment(), "command": command})


def http_table(trials: dict[str, dict[str, Any]]) -> str:
    """Return the trials as docs/serve.md shows them."""
    mixed_up, fuzz, many, dawdling, stop, kill = trials.values()
    growth = [trial["megabytes"][1] - trial["megabytes"][0] for trial in (mixed_up, fuzz)]
    codes = ", ".join(f"{count:,} times {code}" for code, count in fuzz["answers"].items())
    late = {status for counts in dawdling["answers"].values() for status in counts}
    rows = [
        (
            f"{mixed_up['requests']:,} requests of {mixed_up['clients']} clients with known answers, of whom "
            f"{mixed_up['left before the answer']:,} left before theirs",
            f"{mixed_up['right']:,} right, {mixed_up['mixed_up']} wrong; memory {growth[0]:+.1f} MB",
        ),
        (
            f"{fuzz['requests']:,} requests with bytes changed, taken out or put in",
            f"{codes}; {fuzz['tracebacks']} tracebacks; memory {growth[1]:+.1f} MB",
        ),
        (
            f"{many['connections']} connections, of which {many['cap']} are allowed",
            f"{many['answers']['200']} answered, {many['answers']['503']} times 503; afterwards {many['afterwards']}",
        ),
        (f"{dawdling['each']} clients of each of: {', '.join(dawdling['answers'])}", f"all {' or '.join(late)}"),
        (
            f"SIGTERM {stop['times']} times under {stop['clients']} clients that never pause",
            f"{stop['answers']['200']:,} answered, {stop['answers']['503']:,} times 503, "
            f"{stop['answers'].get('lost', 0)} lost; exit codes {', '.join(stop['exit_codes'])}",
        ),
        (
            f"one of two workers killed {kill['times']} times under {kill['clients']} clients that ask again",
            f"{kill['right']:,} right, {kill.get('wrong', 0)} wrong, {kill.get('never answered', 0)} never answered; "
            f"{kill['asked again']} asked again; {kill['workers afterwards']} workers afterwards",
        ),
    ]
    lines = [f"| {trial} | {result} |" for trial, result in rows]
    return "\n".join(["| trial | what came of it |", "|---|---|", *lines])
