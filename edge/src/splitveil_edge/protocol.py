"""Requests and answers of the Open Inference Protocol v2 over HTTP, with its extension for binary tensors.

A request is a header in JSON, as long as ``Inference-Header-Content-Length`` says, and then the bytes of the tensors;
so is an answer. A server without the extension answers with the numbers in JSON, which is read too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bundle import Device
from .errors import printable
from .transport import Reply

LENGTH = "Inference-Header-Content-Length"


class Request(NamedTuple):
    """A request, made once: a retry sends it again as it is.

    Attributes:
        path: of the model at the server.
        headers: of HTTP, without the token.
        body: header in JSON, and wires.
        id: that the answer repeats.
        images: how many it asks for.
    """

    path: str
    headers: dict[str, str]
    body: bytes
    id: str
    images: int


class WrongAnswer(Exception):
    """An answer that is not what was asked for."""


def request(device: Device, wires: Sequence[bytes], name: str) -> Request:
    """Return the request for the answers to some wires.

    Args:
        device: what was exported.
        wires: of one image each.
        name: identifier of the request.
    """
    sent = b"".join(wires)
    about = {
        "id": name,
        "inputs": [
            {
                "name": "wire",
                "datatype": device.dtype,
                "shape": [len(wires), device.length],
                "parameters": {"binary_data_size": len(sent)},
            }
        ],
        "outputs": [{"name": device.output, "parameters": {"binary_data": True}}],
    }
    header = json.dumps(about, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(header))}
    return Request(f"/v2/models/{device.model_name}/infer", headers, header + sent, name, len(wires))


def logits(reply: Reply, device: Device, asked: Request) -> NDArray[np.float32]:
    """Return the logits of an answer, float32 (B, classes).

    Args:
        reply: of status 200.
        device: what was exported.
        asked: the request.

    Raises:
        WrongAnswer: another request's answer, another shape or type, numbers that are not finite.
    """
    header, tensors = _divided(reply)
    try:
        about = json.loads(header)
    except (ValueError, RecursionError):
        raise WrongAnswer("what is not JSON") from None
    outputs = about.get("outputs") if isinstance(about, dict) else None
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise WrongAnswer("JSON without a list of outputs")
    if about.get("id") != asked.id:
        raise WrongAnswer(f"the id {about.get('id')!r:.40}, which is another request's")
    if about.get("model_name", device.model_name) != device.model_name:
        raise WrongAnswer(f"what the model {about['model_name']!r:.80} says")
    shape = [asked.images, len(device.classes)]
    (output, *more) = outputs or [{}]
    found = output.get("name"), output.get("datatype"), output.get("shape")
    if more or found != (device.output, "FP32", shape):
        raise WrongAnswer(f"{len(outputs)} outputs, the first {found!r:.120}, not {(device.output, 'FP32', shape)}")
    values = _values(output, tensors, shape)
    if not np.isfinite(values).all():
        raise WrongAnswer("logits that are not finite")
    return values


def reason(reply: Reply) -> str:
    """Return what a server says of its refusal, on one line.

    Args:
        reply: of another status than 200.
    """
    try:
        said = json.loads(reply.body)["error"]
    except (ValueError, RecursionError, KeyError, TypeError):
        said = None
    return printable(said) if isinstance(said, str) and said.strip() else "it gives no reason"


def _divided(reply: Reply) -> tuple[bytes, bytes]:
    length = reply.headers.get(LENGTH)
    if length is None:
        return reply.body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 10) or int(length) > len(reply.body):
        raise WrongAnswer(f"a header of {length!r:.20} bytes in {len(reply.body)}")
    return reply.body[: int(length)], reply.body[int(length) :]


def _values(output: dict[str, Any], tensors: bytes, shape: list[int]) -> NDArray[np.float32]:
    parameters = output.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    count = shape[0] * shape[1]
    if size is not None:
        if size != 4 * count or len(tensors) != size:
            raise WrongAnswer(f"{len(tensors)} bytes of logits, announced as {size!r:.20}; expected {4 * count}")
        return np.frombuffer(tensors, "<f4").astype(np.float32).reshape(shape)
    try:
        values = np.asarray(output.get("data"), np.float64)
    except (ValueError, TypeError, OverflowError):
        raise WrongAnswer("logits that are no numbers") from None
    if values.size != count:
        raise WrongAnswer(f"{values.size} logits; expected {count}")
    return values.astype(np.float32).reshape(shape)
