"""Files that are read back through typed models; damage raises one line that names the file."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from ..errors import UserError

if TYPE_CHECKING:  # a server reads its bundle through this file, and does without torch
    import torch

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Size = Annotated[int, Field(ge=1, le=2**53)]
OPEN = ConfigDict(extra="allow")  # another version may say more

UNUSABLE = (RuntimeError, LookupError, TypeError, ValueError, AttributeError)
"""Exceptions that objects raise when they are given the state of another kind of object."""


ANSWERS = {"accuracy": "test.csv", "retrained_accuracy": "test_retrained.csv"}
"""Files of a run that hold the answers to the test images, by their entry in its summary."""


class Missing(UserError):
    """A file that is not there."""


class Interval(TypedDict):
    """A mean and its 95 % interval."""

    mean: Number
    ci95: Annotated[list[Number], Field(min_length=2, max_length=2)]


class Wire(TypedDict):
    """The wire of one image."""

    shape: list[Count]
    bytes: Count


class Images(TypedDict):
    """Numbers of images of a training; None where it was imported."""

    train: Count | None
    test: Count | None


class Parameters(TypedDict):
    """Numbers of parameters on the device, and elsewhere."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    encoder: Count


class Environment(TypedDict):
    """Versions and machine on which something was computed."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    splitveil: str


class Retraining(TypedDict):
    """The retraining of a run's tail: its recipe (`splitveil.evaluation.tail.RECIPE`) and its seconds."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    seconds: Number


class RunSummary(TypedDict):
    """``RUN/summary.json``. A run that was imported has neither an epoch nor seconds, and perhaps no accuracy.

    ``retrained_accuracy`` is there once `splitveil tail` has been run.
    """

    __pydantic_config__ = OPEN  # type: ignore[misc]
    accuracy: Interval | None
    retrained_accuracy: NotRequired[Interval]
    retraining: NotRequired[Retraining]
    accuracy_val: NotRequired[Number | None]
    epoch: Count | None
    leakage_nats: NotRequired[Number | None]
    seconds: Number | None
    images: Images
    test_digest: NotRequired[str]
    settings: NotRequired[dict[str, Any]]
    weights: NotRequired[str]
    parameters: Parameters
    wire: Wire
    environment: Environment


class Attacked(TypedDict):
    """Numbers of images that an attack learned from, and that it reconstructed."""

    attacker: Count
    attacked: Count


class Budgeted(TypedDict):
    """The budget of an attack, and which of its loops it ended."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    steps: NotRequired[Count | None]
    seconds: NotRequired[Number | None]
    cut: NotRequired[dict[str, list[int]]]


class Judged(TypedDict):
    """An attack on the attacker's own images that it has not learned from; no error where there are too few."""

    images: Count
    mse: Number | None


class AttackSummary(TypedDict):
    """``RUN/attacks/NAME/summary.json``."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    attack: Annotated[dict[str, dict[str, Any]], Field(min_length=1, max_length=1)]
    protocol: str
    seed: NotRequired[int]
    observed: NotRequired[Annotated[int, Field(ge=1)]]
    revision: NotRequired[Annotated[list[int], Field(min_length=2, max_length=2)]]
    images: Attacked
    images_digest: NotRequired[str | None]
    mse: Interval
    psnr: Interval
    ssim: Interval
    ssim_zero: NotRequired[Interval]
    lpips: NotRequired[Interval]
    about_lpips: NotRequired[dict[str, Any]]
    reidentified: NotRequired[Interval]
    about_reidentified: NotRequired[dict[str, Any]]
    wire_distance: NotRequired[Interval]
    held_out: NotRequired[Judged]
    baseline_mse: Number
    class_mean_mse: NotRequired[Number]
    linear_mse: NotRequired[Number | None]
    flags: list[str]
    seconds: Number
    budget: NotRequired[Budgeted]
    curve: NotRequired[list[Number]]


class EpochLine(TypedDict):
    """A line of ``RUN/metrics.jsonl``."""

    __pydantic_config__ = OPEN  # type: ignore[misc]
    epoch: Count
    loss: Number
    losses: dict[str, Number]
    accuracy_val: Number
    leakage_nats: Number | None
    seconds: Number


RUN, ATTACK, EPOCH = TypeAdapter(RunSummary), TypeAdapter(AttackSummary), TypeAdapter(EpochLine)
EPOCHS = TypeAdapter(list[EpochLine])
ANY = TypeAdapter(dict[str, Any])


def text_of(path: Path, remedy: str) -> bytes:
    """Return the bytes of a file.

    Args:
        path: file that is read.
        remedy: what to do where it is missing.

    Raises:
        Missing: it is not there.
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        kind = Missing if isinstance(error, FileNotFoundError) else UserError
        raise kind(f"cannot read {path}: {error.strerror}; {remedy}") from None


def read_json(path: Path, kind: TypeAdapter[Any], remedy: str) -> Any:
    """Return what a JSON file holds, checked.

    Args:
        path: file that is read.
        kind: type of its content.
        remedy: what to do where it is missing or damaged.

    Raises:
        Missing: it is not there.
        UserError: it is damaged; the message names the file and the entry.
    """
    return parsed(path, text_of(path, remedy), kind, remedy)


def parsed(path: Path, text: bytes | str, kind: TypeAdapter[Any], remedy: str) -> Any:
    """Return what a text says, checked.

    Args:
        path: file that holds the text, for the message.
        text: JSON.
        kind: type of its content.
        remedy: what to do where it is damaged.

    Raises:
        UserError: it is damaged; the message names the file and the entry.
    """
    try:
        return kind.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise UserError(f"{path} is damaged ({reason}); {remedy}") from None


def read_lines(path: Path, kind: TypeAdapter[Any], remedy: str) -> list[Any]:
    """Return what a file with one JSON value on each line holds, checked.

    Args:
        path: file that is read.
        kind: type of each line.
        remedy: what to do where it is missing or damaged.

    Raises:
        Missing: it is not there.
        UserError: it is damaged; the message names the file and the entry.
    """
    return [parsed(path, line, kind, remedy) for line in text_of(path, remedy).splitlines()]


def read_columns(path: Path, needed: set[str], remedy: str, count: int | None = None) -> dict[str, np.ndarray]:
    """Return the columns of a CSV file with the numbers of one image in each row, float64, (N,) each, by image.

    Args:
        path: file that is read; its column ``image`` numbers the images from 0, in any order of the rows.
        needed: further columns that it must have.
        remedy: what to do where it is missing or damaged.
        count: rows that it must have; None: at least one.

    Raises:
        Missing: it is not there.
        UserError: it is damaged; a number that is not finite, or an image that is missing or there twice, is damage
            too.
    """
    text = text_of(path, remedy)
    try:
        names, *lines = text.decode("utf-8").splitlines() or [""]
        columns = names.split(",")
        if len(set(columns)) < len(columns):
            raise ValueError("it has two columns of one name")
        if absent := sorted({"image", *needed} - set(columns)):
            raise ValueError(f"it has no column {', '.join(absent)}")
        table = np.loadtxt(lines, delimiter=",", ndmin=2) if lines else np.zeros((0, 0))
        if not table.size or not np.isfinite(table).all():
            raise ValueError("expected rows of finite numbers")
        if table.shape[1] != len(columns):
            raise ValueError(f"its rows have {table.shape[1]} numbers under {len(columns)} names")
        if count is not None and len(table) != count:
            raise ValueError(f"it has {len(table)} rows, expected {count}")
        # Files are paired image by image, and a spreadsheet may have sorted one of them by another column.
        numbers = table[:, columns.index("image")]
        table = table[np.argsort(numbers)]
        if not np.array_equal(np.sort(numbers), np.arange(len(table))):
            raise ValueError(f"its column image does not hold each of 0 to {len(table) - 1} once")
        return dict(zip(columns, np.ascontiguousarray(table.T), strict=True))
    except ValueError as error:  # also text that is no UTF-8
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged ({reason}); {remedy}") from None


def read_checkpoint(path: Path, device: torch.device, needed: set[str], remedy: str) -> dict[str, Any]:
    """Return the dictionary that ``torch.save`` left in a file; no code of the file runs.

    Args:
        path: file that is read.
        device: where its tensors are to be.
        needed: entries that it must have.
        remedy: what to do where it is damaged.

    Raises:
        UserError: it is damaged, or lacks an entry.
    """
    import torch

    try:
        with path.open("rb") as file:  # a file and not a path: torch judges a path by the ending of its name
            saved = torch.load(file, map_location=device, weights_only=True)
        if not isinstance(saved, dict) or not needed <= set(saved):
            raise ValueError(f"expected the entries {', '.join(sorted(needed))}")
        return saved
    except (*UNUSABLE, OSError, EOFError, UnpicklingError, RecursionError, MemoryError) as error:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        if isinstance(error, UnpicklingError):  # torch advises to load it all the same, which would run its code
            reason = "it is no file of torch.save, or holds more than tensors and plain values"
        raise UserError(f"{path} is damaged ({reason[:200]}); {remedy}") from None


def finite(tensors: dict[str, torch.Tensor]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity; None where all are finite.

    Args:
        tensors: tensors by name.

    >>> import torch
    >>> finite({"a": torch.ones(2), "b": torch.tensor([torch.nan])})
    'b'
    """
    floating = (name for name, value in tensors.items() if value.is_floating_point())
    return next((name for name in floating if not bool(tensors[name].isfinite().all())), None)
