"""What a finished cell leaves: one JSON with everything that a table or a plot needs, and how to read a folder of them.

A bench folder holds ``cells/ID/`` (a run folder each, with ``record.json`` once it is done) and ``failed/ID.json``.
"""

from __future__ import annotations

import inspect
import json
import math
import sqlite3
import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import numpy as np
import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from .. import config, metrics, suites
from ..errors import UserError
from ..files import atomic_write, write_json
from ..registry import Registry

if TYPE_CHECKING:
    from .grid import Cell

SCHEMA = 1
"""Version of the record. A change that an old reader would misread makes a new one."""
METRICS = ("mse", "psnr", "ssim")
RECORD = "record.json"
DATABASE = "records.sqlite"

Number = Annotated[float, Field(allow_inf_nan=False)]
Name = Annotated[str, Field(pattern=r"^[\w][\w.,=+-]*$")]  # becomes part of a path


class Interval(TypedDict):
    """A mean and its 95 % interval."""

    mean: Number
    ci95: Annotated[list[Number], Field(min_length=2, max_length=2)]


class Attacked(TypedDict):
    """One attack on the cell."""

    attack: dict[str, Any]
    mse: Interval
    psnr: Interval
    ssim: Interval
    baseline_mse: Number
    flags: list[str]
    seconds: Number


class Worst(TypedDict):
    """The strongest attack, image by image: lowest MSE, highest PSNR and SSIM."""

    mse: Interval
    psnr: Interval
    ssim: Interval


class Epoch(TypedDict):
    """One epoch of the training."""

    epoch: int
    loss: Number
    accuracy_val: Number


class Record(TypedDict):
    """``record.json``. ``images_digest`` names the attacked images, ``test_digest`` those of the accuracy: cells
    that share them may be compared in pairs. ``trained_as``: the cell whose network, trained once, this one has too."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    schema: Literal[1]
    id: Name
    grid: str
    axes: dict[str, Any]
    config: dict[str, Any]
    defense: list[str]
    protocol: str
    attacker_size: int | None
    attacked: int | None
    accuracy: Interval
    epoch: int
    leakage_nats: Number | None
    wire: dict[str, Any]
    parameters: dict[str, Any]
    timings: dict[str, Any]
    trained_as: NotRequired[str]
    attacks: dict[Name, Attacked]
    worst_case: Worst
    images_digest: str | None
    test_digest: NotRequired[str | None]
    curve: list[Epoch]
    environment: dict[str, Any]
    git: dict[str, Any] | None
    finished: str
    attempts: int


class Failure(TypedDict):
    """``failed/ID.json``: a cell that was given up."""

    schema: Literal[1]
    id: Name
    axes: dict[str, Any]
    config: dict[str, Any]
    error: str
    log: str | None
    attempts: int


RECORDS, FAILURES = TypeAdapter(Record), TypeAdapter(Failure)


def build(
    folder: Path, cell: Cell, *, grid: str, attempts: int, started: float, labels: Sequence[str] = ()
) -> dict[str, Any]:
    """The record of a run folder whose training and attacks are done.

    Args:
        cell: what was asked for.
        labels: the attacks; each must have left ``attacks/LABEL/``. Empty: those of the cell.
        grid: name of the grid.
        attempts: how often the cell was begun.
        started: ``time.time()`` when this attempt began.

    Raises:
        UserError: an attack is missing, or two attacks were scored on different images.
    """
    summary = read_json(folder / "summary.json")
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    labels = labels or tuple(cell.attacks)
    found = {label: read_json(folder / "attacks" / label / "summary.json") for label in labels}
    digests = {attack.get("images_digest") for attack in found.values()}
    if len(digests) > 1:
        raise UserError(
            f"{folder}: its attacks were scored on different images ({', '.join(sorted(map(str, digests)))}); "
            "delete its folder attacks/ and run the grid again"
        )
    values = {label: per_image(folder, label) for label in labels}
    kept = ("attack", "mse", "psnr", "ssim", "baseline_mse", "flags", "seconds")
    attacks = {label: {key: attack[key] for key in kept} for label, attack in found.items()}
    return {
        "schema": SCHEMA,
        "id": cell.id,
        "grid": grid,
        "axes": dict(cell.axes),
        "config": cell.settings.model_dump(mode="json", exclude={"root"}),
        "defense": [short(spec, "defenses") for spec in cell.settings.defense],
        "protocol": next(iter(found.values()))["protocol"],
        "attacker_size": cell.attacker_size,
        "attacked": cell.attacked,
        **{key: summary[key] for key in ("accuracy", "epoch", "leakage_nats", "wire", "parameters")},
        **{key: summary[key] for key in ("trained_as",) if key in summary},
        "timings": {
            "train": summary["seconds"],
            "attacks": {label: attack["seconds"] for label, attack in found.items()},
            "total": time.time() - started,
        },
        "attacks": attacks,
        "worst_case": worst_case(values),
        "images_digest": digests.pop(),
        "test_digest": summary.get("test_digest"),
        "curve": [{key: row[key] for key in Epoch.__annotations__} for row in map(json.loads, lines)],
        "environment": summary["environment"],
        "git": git_state(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "attempts": attempts,
    }


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
        name: metrics.bootstrap_ci(
            sign * suites.worst_case({k: sign * torch.as_tensor(v[name]) for k, v in values.items()})
        ).as_dict()
        for name, sign in signs.items()
    }


def per_image(folder: str | Path, label: str) -> dict[str, np.ndarray]:
    """Each metric of an attack per attacked image, (N,), in the order of the images.

    Raises:
        UserError: the file is missing, empty or damaged.
    """
    table = _table(Path(folder) / "attacks" / label / "per_image.csv", set(METRICS))
    return {name: table[name] for name in METRICS}


def answers(folder: str | Path) -> np.ndarray:
    """Which test images the network answered right, bool (N,), in the order of the images.

    Raises:
        UserError: the file is missing, empty or damaged.
    """
    file = Path(folder) / "test.csv"
    table = _table(file, {"label", "predicted"}, np.int64)
    return table["label"] == table["predicted"]


def _table(file: Path, needed: set[str], kind: type = np.float64) -> dict[str, np.ndarray]:
    """The columns of a CSV of numbers; integers are read five times as fast."""
    try:
        with file.open(encoding="utf-8") as text:
            names = text.readline().strip().split(",")
            table = np.loadtxt(text, kind, delimiter=",", ndmin=2)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}; run the grid again: what is missing is made") from None
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); delete the folder it is in and run the grid again") from None
    if not needed <= set(names) or table.shape[1] != len(names):
        raise UserError(f"{file} has columns {', '.join(names)}; expected {', '.join(sorted(needed))} and their values")
    return dict(zip(names, table.T, strict=True))


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


def git_state() -> dict[str, Any] | None:
    """Commit of the code that runs, and whether it was changed since; None where it is installed without git."""
    here = Path(__file__).parent

    def git(*words: str | Path) -> str:
        return subprocess.run(["git", "-C", here, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # a .venv lies in somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", here.parent))}
    except (OSError, subprocess.CalledProcessError):
        return None


def write(folder: Path, record: dict[str, Any]) -> None:
    """Leave ``record`` in its run folder, where it says that the cell is done."""
    write_json(folder / RECORD, record)


def read(path: str | Path) -> dict[str, Any]:
    """One record.

    Raises:
        UserError: no such file, damaged, incomplete, or of another schema.
    """
    return _checked(Path(path), RECORDS, "record")


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
    found = [_checked(path, FAILURES, "note of a failed cell") for path in sorted(Path(folder).glob("failed/*.json"))]
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
            *_flat(record["worst_case"]["mse"]),
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
            "epochs INTEGER, protocol TEXT, accuracy REAL, accuracy_lo REAL, accuracy_hi REAL, worst_mse REAL, "
            "worst_mse_lo REAL, worst_mse_hi REAL, leakage_nats REAL, epoch INTEGER, finished TEXT, record TEXT)"
        )
        database.execute(
            f"CREATE TABLE attacks (cell TEXT REFERENCES cells (id), attack TEXT, {columns}, seconds REAL, "
            "PRIMARY KEY (cell, attack))"
        )
        database.executemany(f"INSERT INTO cells VALUES ({', '.join('?' * 18)})", cells)
        database.executemany(f"INSERT INTO attacks VALUES ({', '.join('?' * (3 + 3 * len(METRICS)))})", attacks)


def _flat(interval: dict[str, Any]) -> tuple[float, float, float]:
    return (interval["mean"], *interval["ci95"])


def read_json(path: Path) -> Any:
    """What a JSON file holds; UserError where it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; run the grid again: what is missing is made") from None
    except ValueError as error:  # also bytes that are no text
        raise UserError(f"{path} is damaged ({error}); delete it and run the grid again") from None


def _checked(path: Path, kind: TypeAdapter[Any], what: str) -> dict[str, Any]:
    value = read_json(path)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        newer = isinstance(schema, int | float) and not math.isnan(schema) and schema > SCHEMA
        todo = "use the version of splitveil that wrote it" if newer else "run its grid again"
        raise UserError(f"{path} is a {what} of schema {schema}; this version reads schema {SCHEMA}: {todo}")
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} is no whole {what}: {place}: {first['msg']}; delete it and run the grid again"
        ) from None
