"""The bundle: a folder with all that a device gets, all that a server gets, and nothing that says where it was made."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter
from typing_extensions import TypedDict

from ..errors import UserError
from ..storage import reading
from ..storage.folders import foreign, whole_folder
from ..storage.reading import Count, Interval, Number, Size

SCHEMA = 1
WIRE, SUMS = "wire.json", "SHA256SUMS"
PICTURE = "attack/linear.onnx"
"""What the linear attack makes of a wire, for a page that shows it; neither device nor cloud gets it."""
PLACES = {"device", "cloud", "attack", "triton", "kserve.yaml", "card.html", "card.json"}
"""All that a bundle may have in its folder."""
MODELS = {"device": "encoder.onnx", "cloud": "tail.onnx"}
"""The model of each part."""
AGAIN = "export the run again"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-_."
CLOSED = ConfigDict(extra="forbid")


class Pixels(TypedDict):
    """The image that the device's graph takes."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    dtype: Literal["UINT8"]
    shape: Annotated[list[Size], Field(min_length=3, max_length=3)]


class Drawn(TypedDict):
    """An input of the device's graph that the device fills with fresh random numbers, (B, *shape)."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    name: str
    kind: Literal["normal", "uniform", "exponential", "integer"]
    shape: list[Size]
    high: NotRequired[Annotated[int, Field(ge=1, le=2**53)]]


class Coded(TypedDict):
    """The wire of one image."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    dtype: Literal["UINT8", "FP16", "FP32"]
    shape: Annotated[list[Size], Field(min_length=1, max_length=1)]
    codec: Literal["uint8", "uint4", "uint2", "float16", "float32"]
    bits_per_image: Count
    error_over_sigma: Number | None


class Output(TypedDict):
    """An output of the cloud's graph."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    name: str
    dtype: Literal["FP32"]
    shape: list[Size]


class LinearError(TypedDict):
    """Squared error of the linear attack on the numbers before the codec and on what the cloud reads."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    images: Count
    float32: Interval
    coded: Interval
    difference: Interval
    graph_sha256: NotRequired[Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]


class Int8Tail(TypedDict):
    """A tail in 8-bit integers beside the same in float32, on the same coded wires of test images."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    calibration_images: Count
    agreement: Interval
    difference: Interval


class Measured(TypedDict):
    """What the export has measured on test images, the same draws on both sides."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    images: Count
    accuracy_torch: Interval
    accuracy_bundle: Interval
    difference: Interval
    codes_differ: Number
    linear_mse: NotRequired[LinearError]
    int8_tail: NotRequired[Int8Tail]


class Wire(TypedDict):
    """``wire.json``."""

    __pydantic_config__ = CLOSED  # type: ignore[misc]
    splitveil: Literal[1]
    name: str
    pair: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    image: Pixels
    draws: list[Drawn]
    wire: Coded
    outputs: Annotated[list[Output], Field(min_length=1)]
    classes: list[str]
    measured: Measured
    audit: dict[str, Any] | None


KIND = TypeAdapter(Wire)


@dataclass(frozen=True)
class Bundle:
    """A bundle, or one part of it, that has been read and is undamaged.

    Attributes:
        wire: content of wire.json.
        models: content of the ONNX files by part, ``device`` and ``cloud``.
    """

    wire: Wire
    models: Mapping[str, bytes]

    @property
    def model_name(self) -> str:
        """Return the name under which a server offers it: a device of another pair finds no such model."""
        return f"{self.wire['name']}-{self.wire['pair']}"


def canonical(value: Mapping[str, Any]) -> bytes:
    """Return the one way in which a wire.json is written: sorted keys, two spaces, ASCII.

    Args:
        value: its content.
    """
    return (json.dumps(value, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


def pair_of(encoder: bytes, tail: bytes, about: Mapping[str, Any]) -> str:
    """Return what device and cloud must agree in: 12 hexadecimal digits of a SHA-256 over both models and wire.json.

    Args:
        encoder: content of encoder.onnx.
        tail: content of tail.onnx.
        about: content of wire.json; its own ``pair`` does not count.
    """
    rest = {key: value for key, value in about.items() if key != "pair"}
    return hashlib.sha256(encoder + tail + canonical(rest)).hexdigest()[:12]


def check_name(name: str) -> str:
    """Return a bundle's name, which becomes a part of addresses and of folders.

    Args:
        name: as it was given.

    Raises:
        UserError: other letters than lower-case ones, digits and ``-_.``, or too many.

    >>> check_name("cifar10")
    'cifar10'
    """
    if not 0 < len(name) <= 64 or set(name) - set(LETTERS) or name[0] in "-_.":
        raise UserError(f"name {name!r:.80}; expected 1 to 64 of a-z, 0-9 and -_., beginning with a letter or a digit")
    return name


def check_place(out: str | Path, overwrite: bool) -> None:
    """Refuse a folder that an export may not make.

    Args:
        out: folder of the bundle.
        overwrite: whether a bundle that is there is replaced.

    Raises:
        UserError: something else is there, or a bundle that is not to be replaced; no folder can be made or replaced.
    """
    out = Path(out)
    _check_parent(out)
    if not foreign(out):
        return
    if not (out / "device" / WIRE).is_file():
        raise UserError(f"{out} exists and is no bundle; choose an empty or new folder for --out")
    if not overwrite:
        raise UserError(f"{out} holds a bundle already; add --overwrite to replace it, or choose another --out")
    if others := foreign(out, PLACES):
        raise UserError(f"{out} holds {others[0].name} beside a bundle; move it elsewhere, or choose another --out")


def _check_parent(out: Path) -> None:
    """Refuse what would fail only when all is computed."""
    whole = out.resolve()
    if whole in (Path.cwd(), *Path.cwd().parents) or whole.is_mount():
        raise UserError(f"{out} cannot be replaced, as it is in use; choose a folder in it for --out")
    above = next(path for path in whole.parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise UserError(f"{above} takes no new folder, so that {out} cannot be written; choose another --out")


def write(
    out: str | Path,
    encoder: bytes,
    tail: bytes,
    wire: Wire,
    more: Mapping[str, bytes | str],
    check: Callable[[], None] | None = None,
) -> None:
    """Write a bundle, whole or not at all.

    Args:
        out: its folder.
        encoder: content of encoder.onnx.
        tail: content of tail.onnx.
        wire: content of wire.json, with its pair.
        more: further files by their path in the bundle.
        check: as of `whole_folder`.

    Raises:
        UserError: the folder cannot be written, or the disk is full; what was there stays.
    """
    files: dict[str, bytes] = {name: text.encode() if isinstance(text, str) else text for name, text in more.items()}
    given = dict(files)
    for part, model in (("device", encoder), ("cloud", tail)):
        beside = {name.removeprefix(f"{part}/"): given[name] for name in given if name.startswith(f"{part}/")}
        held = {**beside, MODELS[part]: model, WIRE: canonical(wire)}
        sums = "".join(f"{hashlib.sha256(held[name]).hexdigest()}  {name}\n" for name in sorted(held))
        files |= {f"{part}/{name}": content for name, content in {**held, SUMS: sums.encode()}.items()}
    with whole_folder(Path(out).resolve(), "export", check) as folder:  # the folder that a link names, and not the link
        for name, content in files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)


def read(path: str | Path) -> Bundle:
    """Return a bundle, or the part of one that is in ``path``, after holding it against its checksums.

    Args:
        path: BUNDLE, BUNDLE/device or BUNDLE/cloud.

    Raises:
        UserError: no bundle, a file that is missing, damaged or of another version, or parts of different exports.
    """
    path = Path(path)
    whole = [path / part for part in MODELS if (path / part).is_dir()]
    if not whole and not (path / WIRE).is_file():
        raise UserError(f"{path} is no bundle: it has no {WIRE}; name a folder that `splitveil export` made")
    models: dict[str, bytes] = {}
    wires: list[Wire] = []
    for folder in whole or [path]:
        files = _checked(folder)
        wires.append(_wire(folder / WIRE, files[WIRE]))
        models |= {part: files[name] for part, name in MODELS.items() if name in files}
    if any(other != wires[0] for other in wires):
        raise UserError(f"{path} has a device and a cloud of different exports; {AGAIN}")
    if len(models) == 2 and pair_of(models["device"], models["cloud"], wires[0]) != wires[0]["pair"]:
        raise UserError(f"{path} is damaged (its parts do not make the pair {wires[0]['pair']}); {AGAIN}")
    return Bundle(wires[0], models)


def attack_of(path: str | Path, wire: Wire) -> bytes | None:
    """Return the linear attack of a bundle as an ONNX file, ``wire`` to ``image``; None where it holds none.

    Args:
        path: the bundle.
        wire: content of its wire.json, which names the checksum.

    Raises:
        UserError: the file is not the one that was exported with this wire.json.
    """
    place = Path(path) / PICTURE
    if not place.is_file():
        return None
    content, told = reading.text_of(place, AGAIN), wire["measured"].get("linear_mse", {}).get("graph_sha256")
    if hashlib.sha256(content).hexdigest() != told:
        raise UserError(f"{place} is not the attack of this export (it differs from the checksum in {WIRE}); {AGAIN}")
    return content


def _wire(path: Path, content: bytes) -> Wire:
    found = reading.parsed(path, content, reading.ANY, AGAIN)
    if found.get("splitveil") != SCHEMA:
        raise UserError(f"{path} has schema {found.get('splitveil')!r:.20}; this version reads {SCHEMA}: {AGAIN}")
    wire = reading.parsed(path, content, KIND, AGAIN)
    check_name(wire["name"])
    return wire


def _checked(folder: Path) -> dict[str, bytes]:
    """Return the files of a part that its checksums name."""
    lines = reading.text_of(folder / SUMS, AGAIN).decode("ascii", "replace").splitlines()
    listed = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    wanted = {WIRE, *(MODELS[part] for part in MODELS if MODELS[part] in listed)}
    if WIRE not in listed or len(wanted) != 2:
        raise UserError(f"{folder / SUMS} is damaged (it names no {WIRE} and one model); {AGAIN}")
    files = {name: reading.text_of(folder / name, AGAIN) for name in sorted(wanted)}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != listed[name]:
            raise UserError(f"{folder / name} is damaged (it differs from its checksum); {AGAIN}")
    return files
