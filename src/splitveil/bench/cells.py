"""What a grid consists of: cells, each one training and its attacks."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from .. import config
from ..recipe import LATER
from ..statistics.evidence import MARGIN
from ..storage.earlier_versions import as_before

LATER_SETTINGS: dict[str, Any] = {
    "nesterov": False,
    "bias_lr": 1.0,
    "label_smoothing": 0.0,
    **LATER,
    "matrix_lr": 0.3,
    "schedule": "steps",
    "alternate_flip": False,
    "choose": "best",
    "cutout": 0,
}
"""Settings that came later, at the values that every earlier training had: they are no part of an id, nor is a recipe's
name."""
SAME_TRAINING = ("train_time", "inference_time")
"""Protocols under which a training sees the same images."""


@dataclass(frozen=True)
class Cell:
    """One training and its attacks.

    Attributes:
        settings: resolved.
        attacks: label (`suites.labels`) -> resolved attack.
        attacker_size, attacked: as for `evaluation.evaluate`; None: all that the protocol gives.
        axes: what varies in the grid, for display.
    """

    settings: config.TrainConfig
    attacks: dict[str, config.Spec]
    attacker_size: int | None = None
    attacked: int | None = None
    axes: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Name of the cell's run folder: a digest of what is trained, wherever the images lie.

        Attacks are no part of it: adding one trains nothing anew.

        >>> from pathlib import Path
        >>> settings = config.parse({"data": "digits", "defense": ["gaussian:0.1"]}).resolve()
        >>> Cell(settings, {}).id == Cell(settings.model_copy(update={"root": Path("/images")}), {}).id
        True
        """
        values = self.settings.model_dump(mode="json", exclude={"root", "devices", "recipe"})
        values = {key: value for key, value in values.items() if LATER_SETTINGS.get(key, ...) != value}
        values["defense"] = [as_before(spec) for spec in values["defense"]]
        return hashlib.sha256(json.dumps(_canonical(values), sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def trained_alike(self) -> tuple[str, ...]:
        """Ids of all cells that have the same training, sorted: this one's, and that of the other protocol's attacker.

        Who attacks matters to a training only under ``auxiliary``, where it does without the attacker's images.

        >>> base = {"data": "digits", "protocol": "train_time"}
        >>> one, other = (Cell(config.parse(base | {"protocol": name}).resolve(), {}) for name in SAME_TRAINING)
        >>> one.trained_alike == other.trained_alike == tuple(sorted([one.id, other.id]))
        True
        """
        if self.settings.protocol not in SAME_TRAINING:
            return (self.id,)
        alike = (self.settings.model_copy(update={"protocol": name}) for name in SAME_TRAINING)
        return tuple(sorted(replace(self, settings=settings).id for settings in alike))


@dataclass(frozen=True)
class Grid:
    """All cells of a grid, each different training once.

    Attributes:
        margin: loss of accuracy, in points, that is to be excluded before accuracy is called kept.
    """

    name: str
    description: str
    cells: tuple[Cell, ...]
    margin: float = MARGIN


def _canonical(value: Any) -> Any:
    """Equal numbers written in one way: 16 and 16.0 are the same setting."""
    if isinstance(value, dict):
        return {key: _canonical(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_canonical(part) for part in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
