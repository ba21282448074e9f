"""Images to wires: the encoder, fresh noise for each image, and a memory for images that are sent again."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import noise
from .bundle import AGAIN, DTYPES, Device
from .errors import UserError, printable
from .pixels import Images

AT_ONCE = 16
"""Images that the encoder takes at once: more cost memory and no less time."""
DRAWING = (b"RandomNormal", b"RandomUniform", b"Bernoulli", b"Multinomial")
"""Operators that draw from a seed, which whoever holds the graph can repeat."""
INPUTS = {"integer": "tensor(int64)"}
OUTPUTS = {"UINT8": "tensor(uint8)", "FP16": "tensor(float16)", "FP32": "tensor(float)"}


class Encoder:
    """The device's graph on one thread, where an image has the same wire in every batch.

    Args:
        device: what was exported.

    Raises:
        UserError: the graph draws by itself, or is not that of wire.json.
    """

    def __init__(self, device: Device):
        self.device = device
        if drawing := [name.decode() for name in DRAWING if name in device.encoder]:
            raise UserError(f"encoder.onnx draws by itself ({drawing[0]}), so its noise can be repeated; {AGAIN}")
        self._session = _session(device.encoder)
        wanted = {"image": ("tensor(uint8)", device.image)} | {
            draw.name: (INPUTS.get(draw.kind, "tensor(float)"), draw.shape) for draw in device.draws
        }
        found = {value.name: (value.type, tuple(value.shape[1:])) for value in self._session.get_inputs()}
        sent = [(value.name, value.type, tuple(value.shape[1:])) for value in self._session.get_outputs()]
        if found != wanted or sent != [("wire", OUTPUTS[device.dtype], (device.length,))]:
            raise UserError(f"encoder.onnx takes {found} and gives {sent}, which is not what wire.json says; {AGAIN}")

    def __call__(self, images: Images) -> NDArray:
        """Return wires (B, n), each with fresh noise.

        Args:
            images: uint8 (B, H, W, C).

        Raises:
            UserError: a wire with a number that is not finite, which no server takes.
        """
        parts = [self._some(images[i : i + AT_ONCE]) for i in range(0, len(images), AT_ONCE)]
        return np.concatenate(parts) if parts else np.empty((0, self.device.length), DTYPES[self.device.dtype])

    def _some(self, images: Images) -> NDArray:
        drawn = {draw.name: noise.draw(draw.kind, (len(images), *draw.shape), draw.high) for draw in self.device.draws}
        wires = self._session.run(["wire"], {"image": np.ascontiguousarray(images), **drawn})[0]
        if self.device.dtype != "UINT8" and not np.isfinite(wires).all():
            raise UserError(f"the encoder made a number that is not finite; {AGAIN}")
        return wires


class Wires:
    """The wires of images as bytes; an image that is remembered gets the wire that it had.

    Fresh noise for an image that was sent before would give the server a second look, and n looks have the noise of
    one with σ/√n. Images are told apart by a hash whose key is random and never leaves the process.

    Args:
        device: what was exported.
        remember: how many images are remembered, those that were used last; 0: none.
    """

    def __init__(self, device: Device, remember: int):
        # Two threads with one new image must not make two wires, and no thread may be amid making one in a fork.
        self.lock = threading.RLock()
        self._encoder, self._most, self._key = Encoder(device), remember, os.urandom(32)
        self._known: OrderedDict[bytes, bytes] = OrderedDict()

    def of(self, images: Images) -> list[bytes]:
        """Return the wire of each image.

        Args:
            images: uint8 (B, H, W, C).
        """
        if not self._most:
            with self.lock:
                return [wire.tobytes() for wire in _little(self._encoder(images))]
        digests = [hashlib.blake2b(image.tobytes(), key=self._key, digest_size=32).digest() for image in images]
        with self.lock:
            known = {digest: self._known[digest] for digest in digests if digest in self._known}
            new = {digest: i for i, digest in enumerate(digests) if digest not in known}
            made = _little(self._encoder(images[list(new.values())]))
            known |= {digest: wire.tobytes() for digest, wire in zip(new, made, strict=True)}
            for digest in digests:
                self._known[digest] = known[digest]
                self._known.move_to_end(digest)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return [known[digest] for digest in digests]


def _little(wires: NDArray) -> NDArray:
    """Return numbers with their lowest byte first, as the protocol sends them."""
    return wires.astype(wires.dtype.newbyteorder("<"), copy=False)


def _session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has no common type for what it cannot load
        reason = f"onnxruntime {onnxruntime.__version__}: {printable(str(error), 200)}"
        raise UserError(f"encoder.onnx cannot be loaded ({reason}); {AGAIN}") from error
