"""One cell of benchmarks/gpu.py in a process of its own: train, retrain the tail, attack, and record all of it."""

from __future__ import annotations

import base64
import contextlib
import io
import shutil
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

IMAGES: dict[str, Any] = {}
"""What this process has loaded, by data set: its cells share it."""


@dataclass(frozen=True)
class Cell:
    """What a worker is to do.

    ``settings`` are those of a training; ``attacks`` are made under ``protocols``, on ``attacked`` images each, by an
    attacker of at most ``attacker_size`` images (None: all); ``check`` keeps only whether it ran. A cell with ``run``
    works in the folder of this name and leaves it: a cell of another stage, or of another try, goes on there.
    ``planned`` is the number of seeds that was fixed before the first cell.
    """

    name: str
    settings: dict[str, Any]
    stage: str = ""
    attacks: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ("inference_time",)
    attacked: int = 1000
    attacker_size: int | None = None
    tail: bool = True
    check: bool = False
    run: str = ""
    planned: int | None = None
    scratch: Path = field(default=Path("runs"))


def loaded(settings: Any) -> Any:
    """The images of a training, once for each process."""
    from splitveil import runs

    key = f"{settings.data} {settings.train_size} {settings.test_size}"
    if key not in IMAGES:
        IMAGES[key] = runs.load_images(settings)
    return IMAGES[key]


def run(cell: Cell) -> dict[str, Any]:
    """The record of ``cell``; of one that fails, what was raised and where."""
    start, folder = time.perf_counter(), cell.scratch / (cell.run or cell.name)
    if not cell.run:
        shutil.rmtree(folder, ignore_errors=True)
    record: dict[str, Any] = {"cell": cell.name} | ({"seeds_planned": cell.planned} if cell.planned else {})
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            record |= _work(cell, folder)
    except Exception as error:  # the others go on; the record says what happened
        record |= {"failed": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-1500:]}
    finally:
        if not cell.run or "failed" in record:  # what has failed begins anew the next time
            shutil.rmtree(folder, ignore_errors=True)
    return record | {"seconds": round(time.perf_counter() - start, 1)}


def _work(cell: Cell, folder: Path) -> dict[str, Any]:
    from splitveil import config, runs
    from splitveil.training.trainer import fit

    settings = config.parse(cell.settings).resolve()
    images = loaded(settings)
    summary = fit(settings, images, folder, resume=bool(cell.run))
    made = runs.Run.open(folder)
    record: dict[str, Any] = {
        "defense": cell.settings.get("defense", []),
        "seed": settings.seed,
        "accuracy": summary["accuracy"],
        "accuracy_val": summary["accuracy_val"],
        "leakage_nats": summary["leakage_nats"],
        "training_seconds": round(summary["seconds"], 1),
    }
    if cell.tail:
        from splitveil.evaluation.tail import ANSWERS, retrain

        record["retrained_accuracy"] = retrain(made, images)["retrained_accuracy"]
        rows = [row.split(",") for row in (folder / ANSWERS).read_text().splitlines()[1:]]
        record["retrained_hits"] = packed([label == answer for _, label, answer in rows])
    for protocol in cell.protocols:
        record[protocol] = _attacked(cell, made, images, protocol)
    return {"ran": sorted(record[cell.protocols[0]]["attacks"])} if cell.check else record


def _attacked(cell: Cell, made: Any, images: Any, protocol: str) -> dict[str, Any]:
    from splitveil.config import Spec
    from splitveil.evaluation import stage, suites
    from splitveil.evaluation.evaluate import run_and_save

    specs = suites.labels(tuple(Spec.model_validate(text) for text in cell.attacks))
    terms: dict[str, Any] = {"protocol_name": protocol, "attacked": cell.attacked, "attacker_size": cell.attacker_size}
    agreed, parts = (
        stage.ThreatModel(**terms),
        stage.parts(made.settings, images, protocol, cell.attacker_size, cell.attacked),
    )
    terms["fits"] = {}  # refine and diffusion begin with the decoder that was trained already
    found: dict[str, suites.Done] = {}
    for label, spec in specs.items():
        there = suites.finished(made, label, spec, parts, agreed)  # made by a cell of an earlier stage
        if there is None:
            outcome = run_and_save(made, label, spec, images, **terms)
            there = outcome.summary, outcome.values, outcome.held_out
        found[label] = there
    values = {label: own for label, (_, own, _) in found.items()}
    held = {label: own for label, (_, _, own) in found.items()}
    kept = ("mse", "ssim", "held_out", "baseline_mse", "flags", "seconds")
    best = suites.best_of(values, held)
    return {
        "attacks": {label: {key: summary[key] for key in kept} for label, (summary, _, _) in found.items()},
        "best_attacker": best,
        "best_mse": _short(suites.best_values(values, held, "mse")) if best else None,
        "worst_case_mse": _short(suites.worst_case({label: value["mse"] for label, value in values.items()})),
    }


def packed(hits: list[bool]) -> str:
    """Answers that are right or wrong, eight to a byte, as text; `unpacked` takes it back."""
    return base64.b64encode(np.packbits(np.array(hits, dtype=bool)).tobytes()).decode()


def unpacked(text: str, count: int) -> np.ndarray:
    """Whether each of ``count`` answers is right, as 0.0 or 1.0.

    >>> unpacked(packed([True, False, True]), 3).tolist()
    [1.0, 0.0, 1.0]
    """
    return np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8), count=count).astype(float)


def _short(values: Any) -> list[float]:
    """Numbers per image, to the five digits that a bootstrap needs."""
    return [float(f"{value:.5g}") for value in values.tolist()]
