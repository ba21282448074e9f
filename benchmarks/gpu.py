"""What a borrowed GPU should give, most wanted first, within a time limit; a rerun goes on.

    python benchmarks/gpu.py --archive cifar10.tar.xz --seconds 500 --seeds 5 --out gpu [--done gpu/records.jsonl]
    python benchmarks/gpu.py --rehearse --out rehearsal

Stages, in this order; --stages chooses some of them, --without leaves some out:

- profile: milliseconds of a training step, eager and captured, at one batch size. The whole profile, with compiled
  steps and all --batches, comes last, if a minute is left.
- cells: the points that decide benchmarks/equal_accuracy_plan.py, trained, and attacked by all but the slowest attack.
- strong: the same networks, attacked by the slowest attack too. The endpoint of the plan needs all of these.
- published: four rows of the published table by its recipe at full length.
- explaining, train_time, others: what the plan calls secondary.
- ablation: what each ingredient of the fast recipe is worth, on the validation images.
- check: every attack, and every defense that a training puts on, once and small. Says what does not run here.

Several cells run at once, each worker in a process of its own: one that is killed ends no other. OUT/records.jsonl gets
a line as soon as a cell is done, OUT/profile.json the profile. Cells that failed are run again by a rerun. Networks
stay in SCRATCH/runs: with the same --scratch, `strong` and `train_time` need not train them again, and a training that
the time limit has cut off goes on from its last epoch. --archive is a tar of ``cifar10/train/CLASS/*.png`` and
``cifar10/test/...``; --root names such a folder that is there already. --rehearse runs a cell of every stage, and all
checks, on this machine with tiny sizes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import equal_accuracy_plan
import gpu_cell
import gpu_stages
from gpu_cell import Cell

STAGES = ("profile", *gpu_stages.stages(5))
FIRST_BATCH = 512
"""Batch size of the short profile: that of the fast recipe."""
LEAST_FOR_PROFILE = 60.0
"""Seconds that must be left for the whole profile."""


def unpacked(archive: Path, scratch: Path) -> Path:
    """The folder of the images of ``archive``."""
    folder = scratch / "images"
    folder.mkdir(exist_ok=True)
    subprocess.run(["tar", "xf", archive, "-C", folder], check=True)  # Python's own takes three times as long
    return folder / "cifar10"


class Workers:
    """Processes, each with a pool of its own: one that is killed takes only its own cell with it."""

    def __init__(self, count: int):
        self.free = [self._pool() for _ in range(count)]
        self.running: dict[Future[Any], tuple[Cell, Any, float]] = {}

    @staticmethod
    def _pool() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def start(self, cell: Cell) -> None:
        """Begin ``cell`` in a free process."""
        pool = self.free.pop()
        try:
            future = pool.submit(gpu_cell.run, cell)
        except BrokenProcessPool:  # its process was killed, in its last cell or since
            pool.shutdown(wait=False)
            pool = self._pool()
            future = pool.submit(gpu_cell.run, cell)
        self.running[future] = cell, pool, time.monotonic()

    def finished(self, seconds: float) -> list[tuple[Cell, dict[str, Any]]]:
        """Wait for at most so long until a cell is done; return those that are, with their records."""
        found = []
        for future in wait(self.running, timeout=seconds, return_when=FIRST_COMPLETED).done:
            cell, pool, began = self.running.pop(future)
            try:
                record = future.result()
            except BrokenProcessPool as error:  # by the system, for want of memory say
                record = {"cell": cell.name, "failed": f"its process was killed: {error}", "where": ""}
                record["seconds"] = round(time.monotonic() - began, 1)
            self.free.append(pool)
            found.append((cell, record))
        return found

    def close(self) -> None:
        """End all of them, those that still work too."""
        for pool in [*self.free, *(pool for _, pool, _ in self.running.values())]:
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)


def startable(todo: list[Cell], busy: set[str], longest: dict[str, float], left: float) -> Cell | None:
    """The first cell whose folder is not in use, and whose stage has not been seen to take longer than is left."""
    return next((cell for cell in todo if cell.run not in busy and longest.get(cell.stage, 0.0) < left), None)


def run_all(cells: list[Cell], out: Path, done: set[str], count: int, deadline: float) -> None:
    """Run ``cells`` in their order, ``count`` at once; a record is written as soon as it is there."""
    todo, longest, workers = [cell for cell in cells if cell.name not in done], dict[str, float](), Workers(count)
    try:
        while (left := deadline - time.monotonic()) > 0:
            busy = {cell.run for cell, _, _ in workers.running.values() if cell.run}
            cell = startable(todo, busy, longest, left) if workers.free else None
            if cell:
                todo.remove(cell)
                workers.start(cell)
                continue
            if not workers.running:
                break
            for cell, record in workers.finished(left):
                if not cell.check and "failed" not in record:
                    longest[cell.stage] = max(longest.get(cell.stage, 0.0), record["seconds"])
                with (out / "records.jsonl").open("a") as file:
                    file.write(json.dumps(record) + "\n")
                print(line(record, len(todo) + len(workers.running)), flush=True)
    finally:
        workers.close()


def line(record: dict[str, Any], left: int) -> str:
    """A cell in one line."""
    text = f"{record['cell']}: {record['seconds']} s, {left} left"
    if "failed" in record:
        return f"{text}; FAILED {record['failed'][:300]}\n{record['where'][-700:]}"
    if "accuracy" in record:
        text += f"; accuracy {100 * record['accuracy']['mean']:.2f}"
    if "retrained_accuracy" in record:
        text += f", retrained tail {100 * record['retrained_accuracy']['mean']:.2f}"
    for protocol in ("inference_time", "train_time"):
        if protocol in record:
            errors = {label: round(found["mse"]["mean"], 5) for label, found in record[protocol]["attacks"].items()}
            text += f"; {errors}"
    return text


def read(paths: list[Path], seeds: int | None = None) -> set[str]:
    """Names of the cells that ``paths`` have records of; those that failed are run again.

    The number of seeds is fixed before the first cell: records of another plan end the script.
    """
    lines = [json.loads(text) for path in paths if path.is_file() for text in path.read_text().splitlines()]
    for record in lines:
        if seeds and record.get("seeds_planned", seeds) != seeds:
            sys.exit(
                f"{record['cell']} was made for {record['seeds_planned']} seeds; expected --seeds {seeds}: give the "
                "number that the first run had, as the plan does not let it change"
            )
    return {record["cell"] for record in lines if "failed" not in record}


def profile(images: Any, base: dict[str, Any], args: argparse.Namespace, *, whole: bool) -> None:
    """Measure and print the steps of a training."""
    from gpu_profile import measure

    network = {key: base[key] for key in ("arch", "cut", "bottleneck")}
    batches, count = (tuple(args.batches), 20) if whole else ((FIRST_BATCH,), 5)
    batches, count = ((8,), 1) if args.rehearse else (batches, count)
    found = measure(images, network, batches, count, compiled=whole)
    (args.out / "profile.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found), flush=True)


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path)
    parser.add_argument("--root", type=Path, default=Path("data/cifar10"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--done", type=Path, nargs="*", default=[], help="records of earlier loans")
    parser.add_argument("--seconds", type=float, default=500)
    parser.add_argument("--seeds", type=int, choices=equal_accuracy_plan.SEED_COUNTS, default=5, help="of the plan")
    parser.add_argument("--workers", type=int, default=max(1, min(12, (os.cpu_count() or 2) - 2)))
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--without", nargs="*", choices=STAGES, default=[])
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512, 1024], help="of the whole profile")
    parser.add_argument("--only", default="", help="of the checks: a part of the name")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "splitveil-gpu")
    parser.add_argument("--rehearse", action="store_true")
    return parser.parse_args()


def chosen(args: argparse.Namespace, base: dict[str, Any]) -> list[Cell]:
    """The cells of the stages that are wanted, in their order."""
    wanted = [stage for stage in STAGES if stage in args.stages and stage not in args.without]
    made = gpu_stages.stages(args.seeds)
    cells = [cell for stage in wanted if stage in made for cell in made[stage](base)]
    cells = gpu_stages.rehearsed(cells) if args.rehearse else cells
    # Networks of a rehearsal are not those of a run.
    scratch = args.scratch / ("rehearsal" if args.rehearse else "runs")
    return [dataclasses.replace(cell, scratch=scratch) for cell in cells if not cell.check or args.only in cell.name]


def main() -> None:
    """Run the stages."""
    args = arguments()
    deadline = time.monotonic() + args.seconds
    args.out.mkdir(parents=True, exist_ok=True)
    args.scratch.mkdir(parents=True, exist_ok=True)
    done = read([args.out / "records.jsonl", *args.done], args.seeds)
    os.environ |= {"OMP_NUM_THREADS": "1", "SPLITVEIL_CACHE": str(args.scratch / "cache")}
    root = unpacked(args.archive, args.scratch) if args.archive else args.root
    base: dict[str, Any] = {**gpu_stages.NETWORK, "root": str(root.absolute()), "recipe": "fast"}
    shown = base | (gpu_stages.DIGITS if args.rehearse else {})
    from splitveil import config

    images = gpu_cell.loaded(config.parse(shown).resolve())  # decodes in parallel, once for all
    print(f"images are there after {args.seconds - (deadline - time.monotonic()):.0f} s", flush=True)
    profiled = "profile" in args.stages and "profile" not in args.without
    if profiled:
        profile(images, shown, args, whole=False)
    run_all(chosen(args, base), args.out, done, args.workers, deadline)
    if profiled and deadline - time.monotonic() > LEAST_FOR_PROFILE:
        profile(images, shown, args, whole=True)
    print(f"stopped after {args.seconds - (deadline - time.monotonic()):.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
