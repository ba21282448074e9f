"""What audit.json holds, as frozen dataclasses that are written, checked and published as a JSON Schema."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, TypeAdapter

from ..bounds.base import Estimate, Kind, Quantity
from ..statistics.intervals import Interval
from ..storage.reading import Count, Number

SCHEMA = 1
"""Version of audit.json. A change that an old reader would misread makes a new one."""
Level = Literal["leaks like an undefended model", "reduces leakage", "hides the picture from these attacks"]
LEAKS, REDUCES, HIDES = get_args(Level)


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model under audit, and what names it without doubt.

    Attributes:
        weights: SHA-256 of model.safetensors; from Python of the weights, and of the layers, their settings and code.
        noise: whether the wire of one image differs from one request to the next.
        codec: by which the audited wire is sent, such as uint8, or "none"; None in records of earlier versions.
    """

    run: str
    network: str
    cut: str
    defense: list[str]
    data: str
    classes: Count
    image: list[Count]
    seed: int
    weights: str
    noise: bool
    codec: str | None = None


@dataclass(frozen=True, kw_only=True)
class Attacker:
    """Who attacks: the number of own images, what is granted, and how many wires of each image are seen."""

    suite: str
    protocol: str
    grants: list[str]
    images: Count
    attacked: Count
    attacked_digest: str
    observed: Count
    seed: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Means over the attacked images, with 95 % intervals.

    Attributes:
        mse: on pixels in [0, 1]; psnr: in decibels.
        reidentified: share of reconstructions in which an independent classifier sees the true class; None where no
            judge was asked.
    """

    mse: Interval
    psnr: Interval
    ssim: Interval
    reidentified: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Attack(Scores):
    """One attack of the suite."""

    seconds: Number
    flags: list[str]


@dataclass(frozen=True, kw_only=True)
class Best(Scores):
    """The attacker who is best on images of the attacker's own; ``name`` is the attack, or "choice per image"."""

    name: str


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The attack whose reconstructions an independent classifier recognizes most often, and that share.

    It is not always the one with the lowest squared error, which answers a blurred mean of what is possible.
    """

    attack: str
    share: Interval


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The independent classifier: its network, its training where it is known, the share of originals it recognizes."""

    network: str
    epochs: Count | None
    images: Count | None
    recognized: Interval


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """Errors without the wire: of the mean image, and of the mean image of the true class (MSE)."""

    mean_image: Number
    class_mean: Number


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image that the card shows: its number among the attacked images, and the best attacker's error."""

    image: Count
    mse: Number


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """One estimate of a bound; ``bound`` is what computed it, as one would type it."""

    bound: str
    value: Number
    kind: Kind
    quantity: Quantity
    unit: str
    about: str
    assumptions: list[str]
    images: Count
    interval: Interval | None

    @classmethod
    def of(cls, bound: str, estimate: Estimate) -> Bounded:
        """Return an estimate as the record keeps it.

        Args:
            bound: what computed it.
            estimate: the estimate.
        """
        return BOUNDED.validate_python({"bound": bound, **estimate.as_dict()})

    @property
    def estimate(self) -> Estimate:
        """Return the estimate."""
        about = self.about, tuple(self.assumptions), self.images, self.interval
        return Estimate(self.value, self.kind, self.quantity, *about)


@dataclass(frozen=True, kw_only=True)
class Device:
    """The cost on the device, for one image.

    Attributes:
        milliseconds: median over single images on this machine, with its quartiles: [median, lower, upper].
    """

    multiply_adds: Count
    parameters: Count
    wire: list[Count]
    bytes: Count
    milliseconds: Annotated[list[Number], Field(min_length=3, max_length=3)]
    threads: Count


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model that was attacked in the same way, such as the undefended one; differences are ours minus its.

    Attributes:
        mse: of its best attacker. ratio: of the two errors, paired image by image.
        accuracy_difference: paired, as a share; None where the two were not tested on the same images.
        share_of_ceiling: how far the error lies on the way from the reference's to that of the class's mean image.
        entropy_factor: by which the bound of Theorem 1 on the error is larger than the reference's; relative, as it
            says nothing of how large either is. None where one of the two leakages is not bounded.
        defense: of the reference; None in records of earlier versions.
        codec: by which its wire is sent, or "none"; None in records of earlier versions.
    """

    run: str
    weights: str
    accuracy: Interval | None
    accuracy_difference: Interval | None
    mse: Interval
    ratio: Interval
    share_of_ceiling: Interval | None
    entropy_factor: Number | None = None
    defense: list[str] | None = None
    codec: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The level, its sentence, and the figures against the thresholds that made it."""

    level: Level
    sentence: str
    because: list[str]
    thresholds: dict[str, Number]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One requirement of a policy: what was measured, what is asked for, and whether it is met."""

    requirement: str
    measured: str
    limit: str
    met: bool


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A policy against this audit."""

    file: str
    met: bool
    lines: list[Line]


@dataclass(frozen=True, kw_only=True)
class Audit:
    """``audit.json``.

    Attributes:
        accuracy: of the test images; None where an imported checkpoint has none.
        refused: bounds that say nothing about this wire, with the reason.
        skipped: attacks that could not be made, with the reason.
        leakage_logged: the estimate that the training logged, in nats; no bound.
        command: makes this audit again.
    """

    schema: Literal[1] = 1
    model: Model
    accuracy: Interval | None
    attacker: Attacker
    attacks: dict[str, Attack]
    skipped: dict[str, str]
    best_attacker: Best
    worst_case: Scores
    judge: Judge | None
    seen: Seen | None
    ceilings: Ceilings
    pictures: dict[Literal["most", "median", "least"], Picture]
    bounds: list[Bounded]
    refused: dict[str, str]
    leakage_logged: Number | None
    device: Device
    reference: Reference | None
    flags: list[str]
    verdict: Verdict
    policy: Judged | None
    command: str
    environment: dict[str, Any]
    date: str

    def bound(self, quantity: Quantity, kind: Kind, name: str) -> Bounded | None:
        """Return the first estimate of a bound, of this quantity and kind.

        Args:
            quantity: such as "leakage".
            kind: "lower", "upper" or "point".
            name: of the bound, without settings.
        """
        fits = (b for b in self.bounds if (b.quantity, b.kind, b.bound.partition(":")[0]) == (quantity, kind, name))
        return next(fits, None)


AUDIT, BOUNDED = TypeAdapter(Audit), TypeAdapter(Bounded)


def as_json(value: Any) -> Any:
    """Return a record, or any part of it, for JSON.

    Args:
        value: dataclass, interval, list, dictionary or plain value.

    >>> as_json({"a": [Picture(image=3, mse=0.5)]})
    {'a': [{'image': 3, 'mse': 0.5}]}
    """
    if isinstance(value, Interval):
        return value.as_dict()
    if dataclasses.is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of audit.json."""
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"SplitVeil audit, version {SCHEMA}"}
    return AUDIT.json_schema() | about
