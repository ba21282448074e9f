"""What the files of a bench folder hold, for the reader that checks them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from ..storage.reading import Count, Interval, Number

Name = Annotated[str, Field(pattern=r"^[\w][\w.,=+-]*$")]  # becomes part of a path


class Attacked(TypedDict):
    """One attack on the cell."""

    attack: Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=1)]
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


class Best(Worst):
    """The attacker who is best on the own held-out images: the attack's label, and the errors it was chosen by."""

    attack: str
    held_out_mse: dict[str, Number]


class Epoch(TypedDict):
    """One epoch of the training."""

    epoch: Count
    loss: Number
    accuracy_val: Number


class Wire(TypedDict):
    """What crosses the network for one image."""

    shape: list[Count]
    bytes: Count


class Timings(TypedDict):
    """Seconds."""

    train: Number
    tail: NotRequired[Number]
    attacks: dict[str, Number]
    total: Number


class Machine(TypedDict):
    """On what the cell was computed."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    splitveil: NotRequired[str]
    torch: NotRequired[str]
    python: NotRequired[str]
    processor: NotRequired[str | None]
    cores: NotRequired[Count]
    gpu: NotRequired[str | None]
    threads: NotRequired[Count]


class Commit(TypedDict):
    """The code that ran."""

    commit: str
    dirty: bool


class Record(TypedDict):
    """``record.json``. ``images_digest`` names the attacked images, ``test_digest`` those of the accuracy: cells
    that share them may be compared in pairs. ``retrained_accuracy``: of a tail trained anew on the frozen wire, which
    earlier versions did not measure. ``trained_as``: the cell whose network, trained once, this one has too."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
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
    retrained_accuracy: NotRequired[Interval | None]
    epoch: Count
    leakage_nats: Number | None
    wire: Wire
    parameters: dict[str, Count]
    timings: Timings
    trained_as: NotRequired[str]
    attacks: Annotated[dict[Name, Attacked], Field(min_length=1)]
    worst_case: Worst
    best_attacker: NotRequired[Best | None]
    images_digest: str | None
    test_digest: NotRequired[str | None]
    curve: Annotated[list[Epoch], Field(min_length=1)]
    environment: Machine
    git: Commit | None
    finished: str
    attempts: Count


class Failure(TypedDict):
    """``failed/ID.json``: a cell that was given up."""

    schema: Literal[1]
    id: Name
    axes: dict[str, Any]
    config: dict[str, Any]
    error: str
    log: str | None
    attempts: Count


class Described(TypedDict):
    """``grids/NAME.json``. ``margin``: loss of accuracy, in points, that was named before the first cell was done."""

    name: str
    description: str
    command: str
    margin: NotRequired[Number]
    cells: dict[Name, dict[str, Any]]


RECORDS, FAILURES, GRIDS = TypeAdapter(Record), TypeAdapter(Failure), TypeAdapter(Described)
