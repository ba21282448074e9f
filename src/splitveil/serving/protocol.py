"""Requests and answers of the Open Inference Protocol v2 over HTTP, with its binary tensor extension.

A body is a JSON object, and behind it, where ``Inference-Header-Content-Length`` gives its length, raw little-endian
tensors (https://github.com/kserve/open-inference-protocol, extension ``binary_tensor_data``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from .refusals import Kind, Refusal
from .served import VERSION, Served, Tensor, check_id

HEADER_LENGTH = "inference-header-content-length"


@dataclass(frozen=True)
class Request:
    """A request, whose tensors are not checked yet.

    Attributes:
        id: what the answer and the log call it; made up where the client gives none.
        tensors: its inputs.
        outputs: outputs that are asked for, and whether in binary.
    """

    id: str
    tensors: Sequence[Tensor]
    outputs: Mapping[str, bool]


def parse(served: Served, body: bytes, header_length: str | None) -> Request:
    """Return what a body asks for.

    Args:
        served: the model.
        body: the whole body.
        header_length: value of ``Inference-Header-Content-Length``; None: the body is JSON alone.

    Raises:
        Refusal: the body does not follow the protocol.
    """
    head, rest = body, memoryview(b"")
    if header_length is not None:
        if not re.fullmatch("[0-9]{1,9}", header_length) or int(header_length) > len(body):
            raise Refusal(Kind.malformed, "wrong Inference-Header-Content-Length; expected the bytes of the JSON part")
        length = int(header_length)
        head, rest = body[:length], memoryview(body)[length:]
    about = _object(head)
    request_id = check_id(about.get("id"))
    inputs = _objects(about.get("inputs"), "inputs")
    tensors = []
    for one in inputs:
        content, rest = _content(one, rest)
        tensors.append(Tensor(one.get("name"), one.get("datatype"), one.get("shape"), content))
    if len(rest):
        raise Refusal(Kind.malformed, f"{len(rest)} bytes too many behind the JSON part; give binary_data_size")
    return Request(request_id, tensors, _outputs(served, about))


def answer(served: Served, request: Request, outputs: Sequence[np.ndarray]) -> tuple[bytes, int | None]:
    """Return the body of an answer, and the length of its JSON part where raw tensors follow it.

    Args:
        served: the model.
        request: what was asked.
        outputs: outputs of the model, (B, ...) each.
    """
    described, raw = [], []
    for (name, _), values in zip(served.outputs, outputs, strict=True):
        if name not in request.outputs:
            continue
        about: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        if request.outputs[name]:
            content = values.astype("<f4", copy=False).tobytes()
            about["parameters"] = {"binary_data_size": len(content)}
            raw.append(content)
        else:
            about["data"] = values.ravel().tolist()
        described.append(about)
    head = dumped(
        {"model_name": served.model, "model_version": VERSION, "id": request.id, "outputs": described},
    )
    return b"".join([head, *raw]), len(head) if raw else None


def dumped(value: Mapping[str, Any]) -> bytes:
    """Return a value as JSON on one line.

    Args:
        value: the value.
    """
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _constant(name: str) -> NoReturn:
    raise ValueError(name)


def _object(head: bytes) -> dict[str, Any]:
    try:
        found = json.loads(head.decode("utf-8"), parse_constant=_constant)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, NaN, a number of thousands of digits, nested too deeply
        raise Refusal(
            Kind.malformed, "the body is no JSON; with binary data, give Inference-Header-Content-Length"
        ) from None
    if not isinstance(found, dict):
        raise Refusal(Kind.malformed, "the body is no JSON object")
    return found


def _objects(value: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise Refusal(Kind.malformed, f"wrong {name}; expected a list of objects")
    return value


def _parameters(about: dict[str, Any]) -> dict[str, Any]:
    found = about.get("parameters", {})
    if not isinstance(found, dict):
        raise Refusal(Kind.malformed, "wrong parameters; expected an object")
    return found


def _content(about: dict[str, Any], rest: memoryview) -> tuple[memoryview | Sequence[Any], memoryview]:
    """Return the data of an input, and the raw bytes that belong to the inputs behind it."""
    size = _parameters(about).get("binary_data_size")
    data = about.get("data")
    if (size is None) == (data is None):
        raise Refusal(Kind.malformed, "an input needs either data or binary_data_size")
    if size is None:
        if not isinstance(data, list):
            raise Refusal(Kind.malformed, "wrong data; expected a list of numbers")
        return data, rest
    if type(size) is not int or not 0 <= size <= len(rest):
        raise Refusal(Kind.malformed, "wrong binary_data_size; expected the bytes behind the JSON part")
    return rest[:size], rest[size:]


def _outputs(served: Served, about: dict[str, Any]) -> dict[str, bool]:
    """Return the outputs that are asked for, all where none is named, and whether in binary."""
    binary = _parameters(about).get("binary_data_output", False)
    if about.get("outputs") in (None, []):
        return {name: _truth(binary) for name, _ in served.outputs}
    found = {}
    for one in _objects(about["outputs"], "outputs"):
        served.check_output(one.get("name"))
        parameters = _parameters(one)
        if "classification" in parameters:
            raise Refusal(Kind.malformed, "classification is not offered; take the largest logit")
        found[one["name"]] = _truth(parameters.get("binary_data", binary))
    return found


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Refusal(Kind.malformed, "wrong binary_data; expected true or false")
    return value
