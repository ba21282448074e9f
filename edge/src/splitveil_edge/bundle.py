"""Read the device's part of a bundle that ``splitveil export`` made, and refuse one that is damaged or unknown."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import UserError, printable

SCHEMA = 1
WIRE, SUMS, MODEL = "wire.json", "SHA256SUMS", "encoder.onnx"
AGAIN = "copy the bundle's folder device again, or export the run again"
KEYS = frozenset({"splitveil", "name", "pair", "image", "draws", "wire", "outputs", "classes", "measured", "audit"})
"""All keys of wire.json. ``measured`` and ``audit`` are for people: a device does not look into them."""
KINDS = ("normal", "uniform", "exponential", "integer")
DTYPES = {"UINT8": "uint8", "FP16": "float16", "FP32": "float32"}
"""Types of the wire, as the protocol and as numpy call them."""
MOST = 2**53


@dataclass(frozen=True)
class Draw:
    """An input of the encoder that is filled with fresh random numbers.

    Attributes:
        name: of the input.
        kind: law of the numbers, of `KINDS`.
        shape: of the numbers for one image.
        high: whole numbers are below it; None for the other kinds.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    high: int | None = None


@dataclass(frozen=True)
class Device:
    """What a device needs to know.

    Attributes:
        model_name: name of the model at the server, which only the server of the same export offers.
        image: height, width and channels of an image.
        draws: random inputs of the encoder.
        dtype: type of the wire as the protocol calls it: UINT8, FP16 or FP32.
        length: values on the wire of one image.
        output: name of the answer.
        classes: names of the classes.
        codec: name of the code on the wire.
        encoder: content of encoder.onnx.
    """

    model_name: str
    image: tuple[int, int, int]
    draws: tuple[Draw, ...]
    dtype: str
    length: int
    output: str
    classes: tuple[str, ...]
    codec: str
    encoder: bytes

    @property
    def bytes_per_image(self) -> int:
        """Return how many bytes the wire of an image has."""
        return self.length * {"UINT8": 1, "FP16": 2, "FP32": 4}[self.dtype]


def read(path: str | Path) -> Device:
    """Return the device's part of a bundle, after holding it against its checksums.

    Args:
        path: BUNDLE/device, or BUNDLE.

    Raises:
        UserError: no bundle, a file that is missing or damaged, another schema, an unknown key.
    """
    path = Path(path)
    folder = path / "device" if (path / "device").is_dir() else path
    if not (folder / WIRE).is_file():
        raise UserError(f"{path} is no bundle: it has no {WIRE}; name the folder device that `splitveil export` made")
    listed = _sums(folder / SUMS)
    for name in (WIRE, MODEL):
        if name not in listed:
            raise UserError(f"{folder / SUMS} names no {name}; expected the folder device of a bundle: {AGAIN}")
    files = {name: _content(folder / name) for name in (WIRE, MODEL)}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != listed[name]:
            raise UserError(f"{folder / name} is damaged (it differs from its checksum); {AGAIN}")
    try:
        return _device(_parsed(files[WIRE]), files[MODEL])
    except _Damaged as error:
        raise UserError(f"{folder / WIRE} is damaged ({printable(str(error))}); {AGAIN}") from None


class _Damaged(Exception):
    """A part of wire.json that is not as it should be."""


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; {AGAIN}") from error


def _sums(path: Path) -> dict[str, str]:
    lines = _content(path).decode("ascii", "replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        wire = json.loads(content)
    except (ValueError, RecursionError):
        raise _Damaged("not JSON") from None
    if isinstance(wire, dict) and wire.get("splitveil") != SCHEMA:
        found = printable(repr(wire.get("splitveil")), 20)
        raise UserError(f"{WIRE} has schema {found}; this version reads {SCHEMA}: install the splitveil-edge that fits")
    return _held("", wire, KEYS)


def _device(wire: dict[str, Any], encoder: bytes) -> Device:
    image = _held("image", wire["image"], {"dtype", "shape"})
    coded = _held("wire", wire["wire"], {"dtype", "shape", "codec", "bits_per_image", "error_over_sigma"})
    outputs = _of("outputs", wire["outputs"], list)
    if len(outputs) != 1:
        raise _Damaged(f"outputs: {len(outputs)} of them, expected 1")
    output = _held("outputs", outputs[0], {"name", "dtype", "shape"})
    classes = tuple(_of("classes", name, str) for name in _of("classes", wire["classes"], list))
    pixels, length = _shape("image.shape", image["shape"], 3), _shape("wire.shape", coded["shape"], 1)[0]
    device = Device(
        model_name=f"{_of('name', wire['name'], str)}-{_of('pair', wire['pair'], str)}",
        image=(pixels[0], pixels[1], pixels[2]),
        draws=tuple(_draw(value) for value in _of("draws", wire["draws"], list)),
        dtype=_one_of("wire.dtype", coded["dtype"], tuple(DTYPES)),
        length=length,
        output=_of("outputs.name", output["name"], str),
        classes=classes,
        codec=_of("wire.codec", coded["codec"], str),
        encoder=encoder,
    )
    _one_of("image.dtype", image["dtype"], ("UINT8",))
    _one_of("outputs.dtype", output["dtype"], ("FP32",))
    if set(device.model_name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_."):
        raise _Damaged("name: other letters than a-z, 0-9 and -_.")
    if _shape("outputs.shape", output["shape"], 1) != (len(classes),):
        raise _Damaged(f"outputs.shape: {output['shape']}, expected [{len(classes)}], one logit for each class")
    if coded["bits_per_image"] != 8 * device.bytes_per_image:
        raise _Damaged(f"wire.bits_per_image: expected {8 * device.bytes_per_image}")
    return device


def _draw(value: Any) -> Draw:
    found = _held("draws", value, {"name", "kind", "shape"}, {"high"})
    kind, high = _one_of("draws.kind", found["kind"], KINDS), found.get("high")
    if (high is not None) != (kind == "integer") or not (high is None or (_count(high) and high <= MOST)):
        raise _Damaged(f"draws.high: {high!r}, expected 1 to 2**53 where the kind is integer, and none elsewhere")
    return Draw(_of("draws.name", found["name"], str), kind, _shape("draws.shape", found["shape"]), high)


def _held(where: str, value: Any, keys: set[str] | frozenset[str], optional: set[str] | None = None) -> dict[str, Any]:
    """Return a value that is an object of exactly these keys."""
    found = set(_of(where or "the whole", value, dict))
    odd, missing = sorted(found - keys - (optional or set())), sorted(keys - found)
    if odd or missing:
        name = (odd or missing)[0]
        raise _Damaged(f"{f'{where}.' if where else ''}{name}: {'not a key of schema 1' if odd else 'missing'}")
    return value


def _of(where: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise _Damaged(f"{where}: {type(value).__name__}, expected {kind.__name__}")
    return value


def _one_of(where: str, value: Any, options: tuple[str, ...]) -> str:
    if value not in options:
        raise _Damaged(f"{where}: {value!r:.40}, expected one of: {', '.join(options)}")
    return value


def _shape(where: str, value: Any, axes: int | None = None) -> tuple[int, ...]:
    sizes = tuple(_of(where, value, list))
    if not all(map(_count, sizes)) or (axes is not None and len(sizes) != axes):
        raise _Damaged(f"{where}: {value!r:.40}, expected {axes or 'some'} sizes of 1 or more")
    return sizes


def _count(value: Any) -> bool:
    return type(value) is int and value >= 1
