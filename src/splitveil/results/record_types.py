"""What the files of a bench folder hold, as frozen dataclasses that pydantic checks while it reads them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from ..statistics.intervals import Interval
from ..storage.reading import Count, Number

Name = Annotated[str, Field(pattern=r"^[\w][\w.,=+-]*$")]  # becomes part of a path
CEM, NOISE = "cem", "gaussian"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over the attacked images: lower MSE, higher PSNR and SSIM are a better attack."""

    mse: Interval
    psnr: Interval
    ssim: Interval


@dataclass(frozen=True, kw_only=True)
class Attacked(Scores):
    """One attack on the cell; ``attack`` has one key, the attack's name, over its parameters.

    ``reidentified`` is the share of reconstructions, ``recognized`` that of originals, in which an independent
    classifier sees the right class; None where none was asked. ``class_mean_mse`` is the error of the mean image of
    the true class; None in records of earlier versions.
    """

    attack: Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=1)]
    baseline_mse: Number
    flags: list[str]
    seconds: Number
    reidentified: Interval | None = None
    recognized: Interval | None = None
    class_mean_mse: Number | None = None

    @property
    def spec(self) -> tuple[str, dict[str, Any]]:
        """Name and parameters of the attack."""
        return next(iter(self.attack.items()))


@dataclass(frozen=True, kw_only=True)
class Best(Scores):
    """The attacker who is best on the own held-out images: the attack's label, and the errors it was chosen by."""

    attack: str
    held_out_mse: dict[str, Number]


@dataclass(frozen=True)
class Epoch:
    """One epoch of the training."""

    epoch: Count
    loss: Number
    accuracy_val: Number


@dataclass(frozen=True)
class Wire:
    """What crosses the network for one image."""

    shape: list[Count]
    bytes: Count


@dataclass(frozen=True, kw_only=True)
class Timings:
    """Seconds."""

    train: Number
    tail: Number | None = None
    attacks: dict[str, Number]
    total: Number

    @property
    def work(self) -> float:
        """Training, retraining of the tail and attacks together; ``total`` is that of the last attempt alone."""
        return self.train + (self.tail or 0.0) + sum(self.attacks.values())


@dataclass(frozen=True)
class Machine:
    """On what the cell was computed."""

    splitveil: str | None = None
    torch: str | None = None
    python: str | None = None
    processor: str | None = None
    cores: Count | None = None
    gpu: str | None = None
    threads: Count | None = None


@dataclass(frozen=True)
class Commit:
    """The code that ran."""

    commit: str
    dirty: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished cell, ``record.json``.

    Attributes:
        axes: where the cell is in its grid.
        config: all settings but ``root``, as JSON.
        defense: the stack as one would type it.
        accuracy: of the test images. retrained_accuracy: of a tail trained anew on the frozen wire, which earlier
            versions did not measure.
        worst_case: the strongest attack, image by image, by each metric.
        images_digest: names the attacked images. test_digest: names those of the accuracy. Cells that share them may
            be compared in pairs.
        trained_as: the cell whose network, trained once, this one has too.
    """

    schema: Literal[1]
    id: Name
    grid: str
    axes: dict[str, Any]
    config: dict[str, Any]
    defense: list[str]
    protocol: str
    attacker_size: Count | None
    attacked: Count | None
    accuracy: Interval
    retrained_accuracy: Interval | None = None
    epoch: Count
    leakage_nats: Number | None
    wire: Wire
    parameters: dict[str, Count]
    timings: Timings
    trained_as: str | None = None
    attacks: Annotated[dict[Name, Attacked], Field(min_length=1)]
    worst_case: Scores
    best_attacker: Best | None = None
    images_digest: str | None
    test_digest: str | None = None
    curve: Annotated[list[Epoch], Field(min_length=1)]
    environment: Machine
    git: Commit | None
    finished: str
    attempts: Count

    @property
    def attacker(self) -> Scores:
        """Scores of the best attacker who does not know the truth; of the worst case where none is named.

        Records of earlier versions name none, nor do those of attackers with fewer than 20 images.
        """
        return self.best_attacker or self.worst_case

    @property
    def class_mean_mse(self) -> float | None:
        """Error of the mean image of the true class; None in records of earlier versions."""
        return next((one.class_mean_mse for one in self.attacks.values() if one.class_mean_mse is not None), None)

    @cached_property
    def strongest(self) -> str:
        """Label of the attack with the lowest mean error."""
        return min(self.attacks, key=lambda label: self.attacks[label].mse.mean)

    @property
    def data(self) -> str:
        """The image set."""
        return self.config["data"]

    @property
    def seed(self) -> int:
        """Seed of the training."""
        return self.config.get("seed", 0)

    @property
    def stack(self) -> list[tuple[str, dict[str, Any]]]:
        """Name and parameters of each defense."""
        return stack_of(self.config)


def stack_of(config: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return name and parameters of each defense of a configuration."""
    return [item for spec in config.get("defense", ()) for item in spec.items()]


def cem_weight(config: Mapping[str, Any]) -> float:
    """Return λ of a configuration's CEM; 0 without."""
    return next((float(parameters["weight"]) for name, parameters in stack_of(config) if name == CEM), 0.0)


def noise_sigma(config: Mapping[str, Any]) -> float:
    """Return σ of a configuration's Gaussian noise, of several together; 0 without."""
    return math.hypot(*(float(parameters["sigma"]) for name, parameters in stack_of(config) if name == NOISE))


@dataclass(frozen=True, kw_only=True)
class Failure:
    """``failed/ID.json``: a cell that was given up."""

    schema: Literal[1]
    id: Name
    axes: dict[str, Any]
    config: dict[str, Any]
    error: str
    log: str | None
    attempts: Count


@dataclass(frozen=True, kw_only=True)
class Described:
    """``grids/NAME.json``. ``margin``: loss of accuracy, in points, that was named before the first cell was done."""

    name: str
    description: str
    command: str
    margin: Number | None = None
    cells: dict[Name, dict[str, Any]]


RECORDS, FAILURES, GRIDS = TypeAdapter(Record), TypeAdapter(Failure), TypeAdapter(Described)
