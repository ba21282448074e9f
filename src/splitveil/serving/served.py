"""The model that is served and what may be asked of it: names, types, shapes, finite numbers. For HTTP and gRPC."""

from __future__ import annotations

import math
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from .. import __version__
from ..deploy.bundle import Bundle
from .limits import Limits
from .refusals import Kind, Refusal

INPUT = "wire"
"""The only input of every tail."""
VERSION = "1"
ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
TYPES = {"UINT8": np.dtype("u1"), "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4")}
SERVER = {"name": "splitveil", "version": __version__, "extensions": ["binary_tensor_data"]}
"""Metadata of the server."""
SHOWN = 60
"""Most letters of a client's word that an answer repeats."""
DEEPEST = 32
"""Most lists within each other that may hold the numbers of a wire."""


def word(value: Any) -> str:
    """Return a client's word as an answer may repeat it: printable, and cut.

    Args:
        value: what the client sent.

    >>> word("wire"), word("x" * 100), word([1, 2])
    ("'wire'", "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...", 'a list')
    """
    if not isinstance(value, str):
        return "nothing" if value is None else f"a {type(value).__name__}"
    text = ascii(value[:SHOWN])
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def fresh_id() -> str:
    """Return a random id."""
    return secrets.token_hex(8)


def check_id(given: Any) -> str:
    """Return the id of a request; a random one where it has none.

    Args:
        given: as the client sent it.

    Raises:
        Refusal: other letters, which have no place in a log, or too many.
    """
    if given is None or given == "":
        return fresh_id()
    if not isinstance(given, str) or not ID.fullmatch(given):
        raise Refusal(Kind.malformed, "wrong id; expected at most 64 letters, digits and .:_-")
    return given


@dataclass(frozen=True)
class Tensor:
    """An input as a request names it, not checked yet.

    Attributes:
        name: its name.
        datatype: such as ``UINT8``.
        shape: as it was sent.
        content: little-endian bytes, or numbers in a list that may be nested.
    """

    name: Any
    datatype: Any
    shape: Any
    content: bytes | memoryview | Sequence[Any]


@dataclass(frozen=True)
class Served:
    """What a bundle offers.

    Attributes:
        name: name of the model.
        pair: what device and cloud must agree in.
        datatype: type of the wire.
        values: numbers (or bytes) of the wire of one image.
        outputs: name and shape, for one image, of each output.
        images: most images of a request.
    """

    name: str
    pair: str
    datatype: str
    values: int
    outputs: tuple[tuple[str, tuple[int, ...]], ...]
    images: int

    @classmethod
    def of(cls, bundle: Bundle, limits: Limits) -> Served:
        """Return what a bundle offers.

        Args:
            bundle: a bundle or its cloud part.
            limits: limits of the server.
        """
        about = bundle.wire
        outputs = tuple((output["name"], tuple(output["shape"])) for output in about["outputs"])
        wire = about["wire"]
        return cls(about["name"], about["pair"], wire["dtype"], wire["shape"][0], outputs, limits.max_images)

    @property
    def model(self) -> str:
        """Return the name under which clients ask for it."""
        return f"{self.name}-{self.pair}"

    @property
    def dtype(self) -> np.dtype:
        """Return the type of the wire."""
        return TYPES[self.datatype]

    @property
    def wire_bytes(self) -> int:
        """Return the bytes of the wire of one image."""
        return self.values * self.dtype.itemsize

    def check_model(self, name: str, version: str = "") -> None:
        """Refuse a request for another model.

        Args:
            name: name of the model, as it was asked for.
            version: its version; empty: any.

        Raises:
            Refusal: another model, pair or version; the message names the one that is served.
        """
        if name != self.model:
            raise Refusal(
                Kind.not_found,
                f"no model {word(name)}; this server has {self.model}: export the device part again, from the same run",
            )
        if version not in ("", VERSION):
            raise Refusal(Kind.not_found, f"no version {word(version)} of {self.model}; expected {VERSION}")

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the model, as the protocol defines them."""
        return {
            "name": self.model,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": INPUT, "datatype": self.datatype, "shape": [-1, self.values]}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, *shape]} for name, shape in self.outputs],
        }

    def check_output(self, name: Any) -> None:
        """Refuse an output that does not exist.

        Args:
            name: as it was asked for.

        Raises:
            Refusal: another name.
        """
        names = [output for output, _ in self.outputs]
        if name not in names:
            raise Refusal(Kind.malformed, f"output {word(name)}; expected {' or '.join(names)}")

    def wire(self, tensors: Sequence[Tensor]) -> np.ndarray:
        """Return the wires of a request, (B, values), checked.

        Args:
            tensors: inputs of the request.

        Raises:
            Refusal: another name, type, shape or size, a number outside the type's range, NaN or infinity, no image or
                too many.
        """
        if len(tensors) != 1 or tensors[0].name != INPUT:
            raise Refusal(Kind.malformed, f"expected one input, named {INPUT}")
        tensor = tensors[0]
        if tensor.datatype != self.datatype:
            raise Refusal(Kind.malformed, f"datatype {word(tensor.datatype)}; expected {self.datatype}")
        count = self._images(tensor.shape)
        if isinstance(tensor.content, bytes | memoryview):
            wanted = count * self.wire_bytes
            if len(tensor.content) != wanted:
                raise Refusal(Kind.malformed, f"{len(tensor.content)} bytes of data; expected {wanted}")
            found = np.require(np.frombuffer(tensor.content, self.dtype), requirements="A")  # it begins anywhere
        else:
            found = self._numbers(tensor.content, count * self.values)
        if self.datatype != "UINT8" and not np.isfinite(found).all():
            raise Refusal(Kind.malformed, "the wire holds NaN or infinity; expected finite numbers")
        return found.reshape(count, self.values)

    def _images(self, shape: Any) -> int:
        right = isinstance(shape, Sequence) and len(shape) == 2 and all(type(size) is int for size in shape)
        if not right or shape[1] != self.values or shape[0] < 1:
            raise Refusal(Kind.malformed, f"wrong shape; expected [images, {self.values}]")
        if shape[0] > self.images:
            raise Refusal(Kind.too_large, f"more than {self.images} images in a request; send them in several")
        return shape[0]

    def _numbers(self, content: Sequence[Any], count: int) -> np.ndarray:
        """Return the numbers of a list of any nesting, in the type of the wire."""
        whole = self.datatype == "UINT8"
        expected = Refusal(
            Kind.malformed, f"wrong data; expected {count} {'integers from 0 to 255' if whole else 'numbers'}"
        )
        numbers = _flat(content, count)
        # Types before values: numpy would make one text with a thousand letters as long as all the others together.
        if len(numbers) != count or not set(map(type, numbers)) <= ({int} if whole else {int, float}):
            raise expected
        if whole and (min(numbers) < 0 or max(numbers) > 255):
            raise expected
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
                return np.asarray(numbers, np.uint8 if whole else np.float64).astype(self.dtype)
        except OverflowError:  # an integer that no float holds
            raise expected from None

    def check_answer(self, outputs: Sequence[np.ndarray], count: int) -> None:
        """Hold the outputs of the model against the bundle's word.

        Args:
            outputs: outputs of the model, (B, ...) each.
            count: images B.

        Raises:
            ValueError: another number of outputs, shape or type.
        """
        for (name, shape), found in zip(self.outputs, outputs, strict=True):
            if found.shape != (count, *shape) or found.dtype != np.float32:
                raise ValueError(f"output {name} has {math.prod(found.shape)} numbers, not {count} × {shape}")


def _flat(content: Sequence[Any], most: int) -> Sequence[Any]:
    """Return what lists within lists hold; as it is where they are longer than ``most``, or nested too deeply."""
    for _ in range(DEEPEST):
        if not content or len(content) > most or set(map(type, content)) != {list}:
            break
        content = list(chain.from_iterable(content))
    return content
