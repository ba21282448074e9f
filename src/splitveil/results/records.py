"""What a finished cell leaves: one JSON with everything that a table or a plot needs, and how to read a folder of them.

A bench folder holds ``cells/ID/`` (a run folder each, with ``record.json`` once it is done) and ``failed/ID.json``.
"""

from __future__ import annotations

import inspect
import json
import math
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from .. import config
from ..errors import UserError
from ..evaluation import suites
from ..registry import Registry
from ..statistics import intervals
from ..statistics.best_attacker import DISTANCE
from ..storage import reading
from ..storage.files import atomic_write, write_json
from .earlier_versions import as_trained
from .record_types import FAILURES, GRIDS, RECORDS

SCHEMA = 1
"""Version of the record. A change that an old reader would misread makes a new one."""
METRICS = ("mse", "psnr", "ssim")
RECORD = "record.json"
DATABASE = "records.sqlite"

AGAIN = "delete the folder of the cell, or this file, and run the grid again: what is missing is made"


def judged(folder: Path, labels: Iterable[str]) -> tuple[suites.Values, suites.Values]:
    """Values per attacked image and per held-out image of each attack that was judged on held-out images."""
    values, held = {}, {}
    for label in labels:
        summary = reading.read_json(folder / "attacks" / label / "summary.json", reading.ATTACK, AGAIN)
        seen = {DISTANCE} & summary.keys()
        table = reading.read_columns(folder / "attacks" / label / "per_image.csv", {*METRICS, *seen}, AGAIN)
        values[label] = {name: torch.from_numpy(table[name]) for name in (*METRICS, *seen)}
        if "held_out" in summary:
            held[label] = suites.held_out(folder / "attacks" / label, seen, summary, AGAIN)
    return values, held


def errors(folder: Path, record: dict[str, Any]) -> np.ndarray:
    """MSE of the best attacker on each attacked image, (N,); where the record names none, the lowest of any attack.

    Raises:
        UserError: a file of an attack is missing, empty or damaged.
    """
    if not record.get("best_attacker"):
        return np.min([per_image(folder, label)["mse"] for label in record["attacks"]], axis=0)
    values, held = judged(folder, record["attacks"])
    return suites.best_values(values, held, "mse").numpy()


def attacker(record: dict[str, Any]) -> dict[str, Any]:
    """Metrics of the best attacker that can exist; of the worst case where a record names no best attacker.

    Records of earlier versions name none, nor do those of attackers with fewer than 20 images.
    """
    return record.get("best_attacker") or record["worst_case"]


def worst_case(values: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """The strongest attack on every image, by each metric, as means with intervals.

    >>> one, two = np.array([0.1, 0.3]), np.array([0.2, 0.2])
    >>> found = worst_case({"a": dict.fromkeys(METRICS, one), "b": dict.fromkeys(METRICS, two)})
    >>> round(found["mse"]["mean"], 3), round(found["ssim"]["mean"], 3)
    (0.15, 0.25)
    """
    # The strongest attack has the lowest error, but the highest similarity.
    signs = {name: 1 if name == "mse" else -1 for name in METRICS}
    return {
        name: intervals.bootstrap_ci(
            sign * suites.worst_case({k: sign * torch.as_tensor(v[name]) for k, v in values.items()})
        ).as_dict()
        for name, sign in signs.items()
    }


def per_image(folder: str | Path, label: str) -> dict[str, np.ndarray]:
    """Each metric of an attack per attacked image, (N,), in the order of the images.

    Raises:
        UserError: the file is missing, empty or damaged.
    """
    table = reading.read_columns(Path(folder) / "attacks" / label / "per_image.csv", set(METRICS), AGAIN)
    return {name: table[name] for name in METRICS}


def answers(folder: str | Path, name: str = "test.csv") -> np.ndarray:
    """Which test images the network answered right, bool (N,), in the order of the images.

    Args:
        name: the file of the answers; `tail.ANSWERS` for those of the retrained tail.

    Raises:
        UserError: the file is missing, empty or damaged.
    """
    table = reading.read_columns(Path(folder) / name, {"label", "predicted"}, AGAIN)
    return table["label"] == table["predicted"]


def short(spec: config.Spec, kind: str) -> str:
    """A plug-in as one would type it: its first parameter, and others where they are not the default.

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


def read(path: str | Path) -> dict[str, Any]:
    """One record.

    Raises:
        UserError: no such file, damaged, incomplete, or of another schema.
    """
    record = _checked(Path(path), RECORDS, "record")
    known = {key: value for key, value in record["config"].items() if key in config.TrainConfig.model_fields}
    try:
        settings = config.parse(known).model_dump(mode="json", exclude={"root"})
    except UserError as error:
        raise UserError(f"{path} is damaged (config: {error}); {AGAIN}") from None
    record["config"] |= settings
    # Cells with and without parameters that came later stand side by side in one grid, and must be found equal.
    if stack := record["config"].get("defense"):
        record["config"]["defense"] = [config.renewed(as_trained(spec), "defenses") for spec in stack]
    return record


def gather(folder: str | Path) -> list[dict[str, Any]]:
    """All records of a bench folder, by their id.

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
        if record["id"] != name:
            raise UserError(f"{folder / 'cells' / name} holds the record of cell {record['id']}; put it where it was")
    if not found:
        failed = failures(folder)
        why = f"; {len(failed)} failed, the first with: {failed[0]['error']}" if failed else ""
        raise UserError(f"{folder} has no finished cell{why}; run `splitveil bench` on it until one is done")
    return list(found.values())


def failures(folder: str | Path) -> list[dict[str, Any]]:
    """The cells of a bench folder that were given up, by their id; not those that a later run has finished."""
    found = [failure(path) for path in sorted(Path(folder).glob("failed/*.json"))]
    return [note for note in found if not (Path(folder) / "cells" / note["id"] / RECORD).is_file()]


def write_database(path: str | Path, records: Sequence[dict[str, Any]]) -> None:
    """All records as one SQLite file: a table ``cells`` (with the whole record as JSON) and one ``attacks``.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_database(f"{folder}/{DATABASE}", [])
    ...     with closing(sqlite3.connect(f"{folder}/{DATABASE}")) as database:
    ...         database.execute("SELECT count(*) FROM cells").fetchone()
    (0,)
    """
    cells = [
        (
            *(record[key] for key in ("id", "grid")),
            *(record["config"].get(key) for key in ("data", "arch")),
            " + ".join(record["defense"]),
            *(record["config"].get(key) for key in ("seed", "epochs")),
            record["protocol"],
            *_flat(record["accuracy"]),
            *(_flat(known) if (known := record.get("retrained_accuracy")) else (None, None, None)),
            *_flat(attacker(record)["mse"]),
            *(record[key] for key in ("leakage_nats", "epoch", "finished")),
            json.dumps(record),
        )
        for record in records
    ]
    attacks = [
        (record["id"], label, *(x for name in METRICS for x in _flat(attack[name])), attack["seconds"])
        for record in records
        for label, attack in record["attacks"].items()
    ]
    columns = ", ".join(f"{name} REAL, {name}_lo REAL, {name}_hi REAL" for name in METRICS)
    with atomic_write(path) as temporary, closing(sqlite3.connect(temporary)) as database, database:
        database.execute(
            "CREATE TABLE cells (id TEXT PRIMARY KEY, grid TEXT, data TEXT, arch TEXT, defense TEXT, seed INTEGER, "
            "epochs INTEGER, protocol TEXT, accuracy REAL, accuracy_lo REAL, accuracy_hi REAL, "
            "retrained_accuracy REAL, retrained_accuracy_lo REAL, retrained_accuracy_hi REAL, best_mse REAL, "
            "best_mse_lo REAL, best_mse_hi REAL, leakage_nats REAL, epoch INTEGER, finished TEXT, record TEXT)"
        )
        database.execute(
            f"CREATE TABLE attacks (cell TEXT REFERENCES cells (id), attack TEXT, {columns}, seconds REAL, "
            "PRIMARY KEY (cell, attack))"
        )
        database.executemany(f"INSERT INTO cells VALUES ({', '.join('?' * 21)})", cells)
        database.executemany(f"INSERT INTO attacks VALUES ({', '.join('?' * (3 + 3 * len(METRICS)))})", attacks)


def _flat(interval: dict[str, Any]) -> tuple[float, float, float]:
    return (interval["mean"], *interval["ci95"])


def _checked(path: Path, kind: TypeAdapter[Any], what: str) -> dict[str, Any]:
    text = reading.text_of(path, AGAIN)
    schema = reading.parsed(path, text, reading.ANY, AGAIN).get("schema")
    if schema != SCHEMA:
        newer = isinstance(schema, int | float) and not math.isnan(schema) and schema > SCHEMA
        todo = "use the version of splitveil that wrote it" if newer else "run its grid again"
        shown = str(schema)[:40]
        raise UserError(f"{path} is a {what} of schema {shown}; this version reads schema {SCHEMA}: {todo}")
    return reading.parsed(path, text, kind, AGAIN)


def failure(path: Path) -> dict[str, Any]:
    """The note of a cell that was given up.

    Raises:
        Missing, UserError: there is none, or none that can be read.
    """
    return _checked(path, FAILURES, "note of a failed cell")


def named_margin(folders: Iterable[Path]) -> float | None:
    """The smallest margin that a grid of these bench folders has named, in points of accuracy; None without any.

    Raises:
        UserError: as `grids`.
    """
    return min((about["margin"] for folder in folders for about in grids(folder) if "margin" in about), default=None)


def grids(folder: Path) -> list[dict[str, Any]]:
    """What `driver.describe` left of each grid that was run in a bench folder.

    Raises:
        UserError: one that cannot be read.
    """
    return [reading.read_json(path, GRIDS, AGAIN) for path in sorted((folder / "grids").glob("*.json"))]
