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

ATTACKS = (
    "linear:looks=4",
    "decoder:epochs=50,network=res_normN4C64,lr=0.001,weight_decay=0.0001,batch_size=256,steps=2000,patience=250",
    "refine:steps=100,weight=null,start=decoder,epochs=50,network=res_normN4C64,lr=0.001,weight_decay=0.0001,"
    "batch_size=256,draws=4,tuning=16,start_steps=2000,patience=250",
)
TINY = ("linear:looks=1", "decoder:epochs=1,network=conv_normN1C32,batch_size=64")
IMAGES: dict[str, Any] = {}
"""What this process has loaded, by data set: its cells share it."""


@dataclass(frozen=True)
class Cell:
    """What a worker is to do.

    ``settings`` are those of a training; ``attacks`` are made under ``protocols``, on ``attacked`` images each, by an
    attacker of at most ``attacker_size`` images (None: all); ``check`` keeps only whether it ran.
    """

    name: str
    settings: dict[str, Any]
    attacks: tuple[str, ...] = ATTACKS
    protocols: tuple[str, ...] = ("inference_time",)
    attacked: int = 1000
    attacker_size: int | None = None
    tail: bool = True
    check: bool = False
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
    start, folder = time.perf_counter(), cell.scratch / cell.name
    shutil.rmtree(folder, ignore_errors=True)
    record: dict[str, Any] = {"cell": cell.name}
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            record |= _work(cell, folder)
    except Exception as error:  # the others go on; the record says what happened
        record |= {"failed": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-1500:]}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return record | {"seconds": round(time.perf_counter() - start, 1)}


def _work(cell: Cell, folder: Path) -> dict[str, Any]:
    from splitveil import config, runs
    from splitveil.training.trainer import fit

    settings = config.parse(cell.settings).resolve()
    images = loaded(settings)
    summary = fit(settings, images, folder)
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
    from splitveil.evaluation import suites
    from splitveil.evaluation.evaluate import run_and_save

    specs = suites.labels(tuple(Spec.model_validate(text) for text in cell.attacks))
    terms: dict[str, Any] = {"protocol_name": protocol, "attacked": cell.attacked, "attacker_size": cell.attacker_size}
    terms["fits"] = {}  # refine begins with the decoder that was trained already
    found = {label: run_and_save(made, label, spec, images, **terms) for label, spec in specs.items()}
    values = {label: outcome.values for label, outcome in found.items()}
    held = {label: outcome.held_out for label, outcome in found.items()}
    kept = ("mse", "ssim", "held_out", "baseline_mse", "flags", "seconds")
    best = suites.best_of(values, held)
    return {
        "attacks": {label: {key: outcome.summary[key] for key in kept} for label, outcome in found.items()},
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
