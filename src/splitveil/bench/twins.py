"""Two cells that differ only in who attacks them train the same network: it is trained once, and copied.

The published tables attack every network under both of its protocols, so that half of their trainings are such copies.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import config
from ..storage import reading
from ..storage.files import atomic_write, write_json, write_text

if TYPE_CHECKING:
    from .cell import Places
    from .grid import Cell

PROTOCOLS = ("train_time", "inference_time")
"""Under these a training sees the same images; under ``auxiliary`` the attacker takes some away."""
TRAINING = ("model.safetensors", "metrics.jsonl", "test.csv")
SUMMARY, CONFIG = "summary.json", "config.yaml"


def twin(cell: Cell) -> str | None:
    """Id of the cell that trains the same under the other protocol, whether a grid has it or not; None: there is none.

    >>> from splitveil.bench.grid import Cell
    >>> one, other = (
    ...     Cell(config.parse({"data": "digits", "protocol": name}).resolve(), {}) for name in PROTOCOLS
    ... )
    >>> twin(one) == other.id, twin(other) == one.id
    (True, True)
    """
    if cell.settings.protocol not in PROTOCOLS:
        return None
    (other,) = set(PROTOCOLS) - {cell.settings.protocol}
    return replace(cell, settings=cell.settings.model_copy(update={"protocol": other})).id


def at_work(cell: Cell, places: Places, begun: set[str]) -> bool:
    """Whether somebody seems to be training the twin of a cell that is not begun: waiting for it would save that.

    ``begun``: of `Places.begun`; one look at it spares most cells the others.
    """
    if cell.id in begun or (other := twin(cell)) not in begun or other is None:
        return False
    return places.lock(other).is_file() and not (places.run(other) / SUMMARY).is_file()


def adopt(cell: Cell, places: Places) -> bool:
    """Copy the training of the twin, where it is done and the cell's own is not begun; whether that was so.

    The run folder's ``config.yaml`` comes last: a folder without one holds nothing yet.
    """
    folder, other = places.run(cell.id), twin(cell)
    if other is None or (folder / CONFIG).is_file() or not (places.run(other) / SUMMARY).is_file():
        return False
    source = places.run(other)
    summary = reading.read_json(source / SUMMARY, reading.RUN, "train the cell again")
    for name in (*TRAINING, *([reading.ANSWERS["retrained_accuracy"]] if "retrained_accuracy" in summary else [])):
        content = (source / name).read_bytes()
        with atomic_write(folder / name) as temporary:  # a full disk is one line in the cell's log
            temporary.write_bytes(content)
    write_json(folder / SUMMARY, summary | {"trained_as": other})
    values = config.load(source / CONFIG) | {"protocol": cell.settings.protocol}
    version = summary["environment"]["splitveil"]
    write_text(folder / CONFIG, config.dump(config.parse(values), splitveil=version))
    return True


def trained(cell: Cell, folder: Path) -> bool:
    """Whether the cell's network is there already, its own or its twin's; ``folder``: where the run folders are."""
    return any(name and (folder / name / SUMMARY).is_file() for name in (cell.id, twin(cell)))
