"""What a finished cell leaves: one JSON with everything that a table or a plot needs, and how to read a folder of them.

A bench folder holds ``cells/ID/`` (a run folder each, with ``record.json`` once it is done) and ``failed/ID.json``.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from .. import config
from ..errors import UserError
from ..evaluation import suites
from ..evaluation.floors import CLASS_MEAN
from ..evaluation.scores import interval, read_values
from ..registry import Registry
from ..statistics.best_attacker import DISTANCE
from ..storage import reading
from ..storage.earlier_versions import as_trained
from ..storage.files import whole_files, write_json
from .record_types import FAILURES, GRIDS, RECORDS, Described, Failure, Record

SCHEMA = 1
"""Version of the record. A change that an old reader would misread makes a new one."""
METRICS = ("mse", "psnr", "ssim")
RECORD = "record.json"
STRENGTHS = {"gaussian": "sigma", "cem": "weight"}
"""Defense -> parameter by which tables are arranged."""

AGAIN = "delete the folder of the cell, or this file, and run the grid again: what is missing is made"


def judged(
    folder: Path, labels: Iterable[str], remedy: str = AGAIN, known: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[suites.Values, suites.Values]:
    """Return values per attacked image, and per held-out image of each attack that was judged on held-out images.

    Args:
        folder: the run folder.
        labels: the attacks.
        remedy: what to do where a file is missing or damaged.
        known: summaries of attacks that were read already, by label.
    """
    values, held = {}, {}
    for label in labels:
        attack = folder / "attacks" / label
        summary = (known or {}).get(label) or reading.read_json(attack / "summary.json", reading.ATTACK, remedy)
        seen = {DISTANCE} & summary.keys()
        count = summary["images"]["attacked"]
        needed = {*METRICS, *seen, *({CLASS_MEAN} & summary.keys())}
        table = read_values(attack / "per_image.csv", needed, remedy, count, summary)
        values[label] = {name: torch.from_numpy(table[name]) for name in (*METRICS, *seen)}
        if "held_out" in summary:
            held[label] = suites.held_out(attack, seen, summary, remedy)
    return values, held


def worst_case(values: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Return the strongest attack on every image, by each metric, as means with intervals.

    >>> one, two = np.array([0.1, 0.3]), np.array([0.2, 0.2])
    >>> found = worst_case({"a": dict.fromkeys(METRICS, one), "b": dict.fromkeys(METRICS, two)})
    >>> round(found["mse"]["mean"], 3), round(found["ssim"]["mean"], 3)
    (0.15, 0.25)
    """
    tables = {name: {label: torch.as_tensor(v[name]) for label, v in values.items()} for name in METRICS}
    strongest = {name: suites.worst_case(table, name) for name, table in tables.items()}
    return {name: interval(found, name).as_dict() for name, found in strongest.items()}


def per_image(folder: str | Path, label: str) -> dict[str, np.ndarray]:
    """Each metric of an attack per attacked image, (N,), in the order of the images.

    Raises:
        UserError: the file is missing, empty or damaged.
    """
    table = reading.read_columns(Path(folder) / "attacks" / label / "per_image.csv", set(METRICS), AGAIN)
    return {name: table[name] for name in METRICS}


def answers(folder: str | Path, name: str = "test.csv") -> np.ndarray:
    """Return which test images the network answered right, bool (N,), in the order of the images.

    Args:
        folder: the run folder.
        name: the file of the answers; `tail.ANSWERS` for those of the retrained tail.

    Raises:
        UserError: the file is missing, empty or damaged.
    """
    table = reading.read_columns(Path(folder) / name, {"label", "predicted"}, AGAIN)
    return table["label"] == table["predicted"]


def short(spec: config.Spec, kind: str) -> str:
    """Return a plug-in as one would type it: its first parameter, and others where they are not the default.

    >>> short(config.Spec.model_validate("cem:16").resolve("defenses"), "defenses")
    'cem:16'
    >>> short(config.Spec.model_validate("cem:weight=1.6,loss=released").resolve("defenses"), "defenses")
    'cem:weight=1.6,loss=released'
    """
    parameters = inspect.signature(Registry(kind).get(spec.name)).parameters
    first = next(iter(parameters), "")
    shown = {key: value for key, value in spec.parameters.items() if key == first or value != parameters[key].default}
    if not shown:
        return spec.name
    if list(shown) == [first]:
        return f"{spec.name}:{_plain(shown[first])}"
    return f"{spec.name}:" + ",".join(f"{key}={_plain(value)}" for key, value in shown.items())


def _plain(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def write(folder: Path, record: dict[str, Any]) -> None:
    """Leave ``record`` in its run folder, where it says that the cell is done."""
    write_json(folder / RECORD, record)


def read(path: str | Path) -> Record:
    """Read one record.

    Raises:
        UserError: no such file, damaged, incomplete, or of another schema.
    """
    record: Record = _checked(Path(path), RECORDS, "record")
    known = {key: value for key, value in record.config.items() if key in config.TrainConfig.model_fields}
    try:
        settings = config.parse(known).model_dump(mode="json", exclude={"root"})
    except UserError as error:
        raise UserError(f"{path} is damaged (config: {error}); {AGAIN}") from None
    settings = {**record.config, **settings}
    if len(settings.get("defense") or ()) != len(record.defense):
        raise UserError(f"{path} is damaged (defense: {len(record.defense)}, in config another number); {AGAIN}")
    # Cells with and without parameters that came later stand side by side in one grid, and must be found equal.
    attacks = {k: replace(one, attack=config.renewed(one.attack, "attacks")) for k, one in record.attacks.items()}
    if stack := settings.get("defense"):
        settings["defense"] = [config.renewed(as_trained(spec), "defenses") for spec in stack]
        for spec in settings["defense"]:
            for name, parameter in STRENGTHS.items():
                if name in spec and not _is_strength(value := spec[name].get(parameter)):
                    raise UserError(f"{path} is damaged (config: {name}: {parameter} is {value!r:.40}); {AGAIN}")
    return replace(record, config=settings, attacks=attacks)


def _is_strength(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def gather(folder: str | Path) -> list[Record]:
    """Read all records of a bench folder, sorted by their id.

    Raises:
        UserError: no bench folder, one in which no cell is done, or a record that cannot be read.

    >>> gather("runs/none")
    Traceback (most recent call last):
    ...
    splitveil.errors.UserError: there is no folder runs/none; name one that `splitveil bench GRID --out` made
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; name one that `splitveil bench GRID --out` made")
    if not (folder / "cells").is_dir():
        raise UserError(f"{folder} is no bench folder: it has no cells/; name one that `splitveil bench` made")
    found = {path.parent.name: read(path) for path in sorted(folder.glob(f"cells/*/{RECORD}"))}
    for name, record in found.items():
        if record.id != name:
            raise UserError(f"{folder / 'cells' / name} holds the record of cell {record.id}; put it where it was")
    if not found:
        failed = failures(folder)
        why = f"; {len(failed)} failed, the first with: {failed[0].error}" if failed else ""
        raise UserError(f"{folder} has no finished cell{why}; run `splitveil bench` on it until one is done")
    return list(found.values())


def failures(folder: str | Path) -> list[Failure]:
    """Return the cells of a bench folder that were given up, sorted by id, without those that were finished later."""
    found = []
    for path in whole_files(Path(folder) / "failed", "*.json"):
        with contextlib.suppress(reading.Missing):  # another command has just begun to try it again
            found.append(failure(path))
    return [note for note in found if not (Path(folder) / "cells" / note.id / RECORD).is_file()]


def _checked(path: Path, kind: TypeAdapter[Any], what: str) -> Any:
    text = reading.text_of(path, AGAIN)
    schema = reading.parsed(path, text, reading.ANY, AGAIN).get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int | float) and not math.isnan(schema) and schema > SCHEMA
        todo = "use the version of splitveil that wrote it" if newer else "run its grid again"
        shown = str(schema)[:40]
        raise UserError(f"{path} is a {what} of schema {shown}; this version reads schema {SCHEMA}: {todo}")
    return reading.parsed(path, text, kind, AGAIN)


def failure(path: Path) -> Failure:
    """Read the note of a cell that was given up.

    Raises:
        Missing, UserError: there is none, or none that can be read.
    """
    return _checked(path, FAILURES, "note of a failed cell")


def named_margin(folders: Iterable[Path]) -> float | None:
    """Return the smallest margin that a grid of these bench folders has named, in points; None without any.

    Raises:
        UserError: as `grids`.
    """
    named = [about.margin for folder in folders for about in grids(folder) if about.margin is not None]
    return min(named, default=None)


def grids(folder: Path) -> list[Described]:
    """Read what each grid that was run in a bench folder has left.

    Raises:
        UserError: one that cannot be read.
    """
    return [reading.read_json(path, GRIDS, AGAIN) for path in whole_files(folder / "grids", "*.json")]
