"""Kill a grid in the middle and compare what it comes to, cell by cell, with the same grid left in peace.

    python benchmarks/survival.py [--grid benchmarks/survival.yaml] [--root data] [--out runs/survival] [--jobs 2]

undisturbed   the grid as it is
killed        kill -9 of a worker in the middle of a cell, then of the driver, then the same command again
ray           on two Ray nodes of this machine, one of which is killed in the middle of a cell

Equal means: the same bytes of weights, the same error of every attacked image. Writes benchmarks/survival.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitveil.bench.cells import Grid
from splitveil.bench.folder import GridFolder, steps
from splitveil.bench.grid import load_grid
from splitveil.bench.lease import CellLease, Owner
from splitveil.errors import UserError
from splitveil.runs import environment
from splitveil.storage.files import write_json

DEFAULT = Path(__file__).with_suffix(".yaml")
WAIT = 4 * 3600.0
"""Seconds after which something hangs."""


@dataclass
class Show:
    """One run of the grid in a folder of its own."""

    grid: Grid
    out: Path
    arguments: list[str]
    jobs: int
    start: float = field(default_factory=time.monotonic)
    events: list[dict[str, Any]] = field(default_factory=list)

    def note(self, what: str) -> None:
        """Remember and print what happened."""
        event = {"second": round(time.monotonic() - self.start, 1), "done": self.done(), "what": what}
        self.events.append(event)
        print(f"{self.out.name}: {event['second']:.0f} s, {event['done']} cells done: {what}", flush=True)

    def begin(self, *more: str) -> subprocess.Popen[bytes]:
        """Give the command."""
        code = "from splitveil.cli import main; main()"
        tokens = [*self.arguments, "--out", str(self.out), "--jobs", str(self.jobs), *more]
        self.note("splitveil bench is started")
        return subprocess.Popen([sys.executable, "-c", code, "bench", *tokens], stdout=subprocess.DEVNULL)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Wait until the command has ended well."""
        if code := process.wait(WAIT):
            sys.exit(f"{self.out.name}: the command ended with exit code {code}; see {self.out / 'logs'}")
        self.note("splitveil bench has ended")

    def done(self) -> int:
        """Cells that are done."""
        return len(list(self.out.glob("cells/*/record.json")))

    def in_the_middle(self) -> dict[str, Owner]:
        """Cells that are being trained or attacked, and are neither at their beginning nor at their end."""
        places, found = GridFolder(self.out), {}
        for cell in self.grid.cells:
            epochs, attacks = steps(places.run(cell.id))
            owner = CellLease(places.lock(cell)).owner() if epochs and attacks < len(cell.attacks) else None
            if owner:
                found[cell.id] = owner
        return found

    def when(self, true: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
        """Wait for something while the command is at work."""
        deadline = time.monotonic() + WAIT
        while not (answer := true()):
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(
                    f"{self.out.name}: the grid ended before anything could be killed; give it more cells or epochs"
                )
            time.sleep(0.02)
        return answer


def undisturbed(show: Show) -> None:
    """Nothing happens."""
    show.end(show.begin())


def killed(show: Show) -> None:
    """A worker, then the driver."""
    process = show.begin()
    cell, owner = next(iter(show.when(show.in_the_middle, process).items()))
    os.kill(owner.pid, signal.SIGKILL)
    show.note(f"kill -9 of the worker at {cell}, which had {said(show, cell)}")
    enough = min(show.done() + 1, len(show.grid.cells) - show.jobs)
    running = show.when(lambda: show.done() >= enough and show.in_the_middle(), process)
    process.kill()
    process.wait()
    show.note(f"kill -9 of the driver; at work: {', '.join(f'{cell} ({said(show, cell)})' for cell in running)}")
    show.end(show.begin())


def ray(show: Show) -> None:
    """One of two nodes."""
    from ray.cluster_utils import Cluster

    half = {"num_cpus": max(1, show.jobs // 2), "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=half)
    try:
        node = cluster.add_node(**half)
        process = show.begin("--on", "ray", "--address", str(cluster.address))
        both = show.when(lambda: len(found := show.in_the_middle()) > 1 and found, process)
        cluster.remove_node(node, allow_graceful=False)
        show.note(f"one of two nodes is killed; at work: {', '.join(f'{c} ({said(show, c)})' for c in both)}")
        show.end(process)
    finally:
        for left in reversed(cluster.list_all_nodes()):
            cluster.remove_node(left, allow_graceful=False)


SHOWS: dict[str, Callable[[Show], None]] = {"undisturbed": undisturbed, "killed": killed, "ray": ray}


def said(show: Show, cell: str) -> str:
    """How far a cell is."""
    epochs, attacks = steps(GridFolder(show.out).run(cell))
    return f"{epochs} epochs, {attacks} attacks"


def results(grid: Grid, out: Path) -> dict[str, dict[str, Any]]:
    """What each cell came to: weights, the errors of all images, and the figures."""
    found = {}
    for cell in grid.cells:
        folder = GridFolder(out).run(cell.id)
        record = json.loads((folder / "record.json").read_text())
        errors = [(folder / "attacks" / label / "per_image.csv").read_bytes() for label in cell.attacks]
        found[cell.id] = {
            "weights": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
            "errors": hashlib.sha256(b"".join(errors)).hexdigest(),
            "accuracy": record["accuracy"]["mean"],
            **{f"{label} MSE": attack["mse"]["mean"] for label, attack in record["attacks"].items()},
            "attempts": record["attempts"],
        }
    return found


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether a cell came to the same."""
    return all(one[key] == other[key] for key in one if key != "attempts")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grid", default=str(DEFAULT), help="a grid file or a preset, such as smoke")
    parser.add_argument("--root", type=Path, help="folder of the images")
    parser.add_argument("--out", type=Path, default=Path("runs/survival"), help="what an earlier call left is removed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--shows", nargs="+", choices=SHOWS, default=list(SHOWS))
    args = parser.parse_args()
    arguments = [args.grid, "--threads", "1", *(["--root", str(args.root)] if args.root else [])]
    try:
        grid = load_grid(args.grid, root=args.root)
    except UserError as error:
        sys.exit(str(error))
    found, report = {}, {}
    for name in args.shows:
        show = Show(grid, args.out / name, arguments, args.jobs)
        shutil.rmtree(show.out, ignore_errors=True)
        SHOWS[name](show)
        found[name] = results(grid, show.out)
        report[name] = {"seconds": round(time.monotonic() - show.start), "events": show.events}
    first, *others = args.shows
    for name in others:
        report[name]["equal"] = sum(equal(found[first][cell], found[name][cell]) for cell in found[first])
        print(f"{name}: {report[name]['equal']} of {len(grid.cells)} cells are equal to {first}")
    rows = {cell.id: {"axes": cell.axes, **{name: found[name][cell.id] for name in args.shows}} for cell in grid.cells}
    about = {"command": "python " + " ".join(sys.argv), "grid": grid.name, "jobs": args.jobs, "machine": environment()}
    # The committed record is that of the whole plan; anything else is left beside the runs.
    whole = args.grid == str(DEFAULT) and args.shows == list(SHOWS)
    folder = Path(__file__).parent if whole else args.out
    write_json(folder / "survival.json", {**about, "shows": report, "cells": rows})
    if any(report[name]["equal"] < len(grid.cells) for name in others):
        sys.exit("some cells differ")


if __name__ == "__main__":
    main()
