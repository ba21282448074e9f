"""A bundle of two tiny graphs, made in milliseconds: 8 × 8 gray pixels, four numbers on the wire, three classes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from splitveil.deploy import bundle

SIZE, SENT, CLASSES = 8, 4, ("cat", "dog", "owl")
LOW, STEP, SIGMA = -4.0, 8 / 255, 0.1
OPSET = 20


def encoder_bytes(seed: int = 0, size: int = SIZE, sent: int = SENT) -> bytes:
    """Return ``wire = uint8((pixels · W + σ n0 − low) / step)`` as an ONNX file."""
    weights = np.random.default_rng(seed).normal(size=(size * size, sent)).astype(np.float32) / size
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["floats", "flat"], ["pixels"]),
        helper.make_node("MatMul", ["pixels", "weights"], ["feature"]),
        helper.make_node("Mul", ["n0", "sigma"], ["noise"]),
        helper.make_node("Add", ["feature", "noise"], ["noisy"]),
        helper.make_node("Sub", ["noisy", "low"], ["above"]),
        helper.make_node("Div", ["above", "step"], ["scaled"]),
        helper.make_node("Round", ["scaled"], ["nearest"]),
        helper.make_node("Clip", ["nearest", "zero", "top"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["wire"], to=TensorProto.UINT8),
    ]
    constants = {"flat": np.array([-1, size * size]), "weights": weights / 255, **_scalars(zero=0, top=255)}
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", size, size, 1]),
        helper.make_tensor_value_info("n0", TensorProto.FLOAT, ["B", sent]),
    ]
    outputs = [helper.make_tensor_value_info("wire", TensorProto.UINT8, ["B", sent])]
    return _file(nodes, inputs, outputs, constants)


def tail_bytes(seed: int = 0, sent: int = SENT) -> bytes:
    """Return ``logits = (low + step · wire) · V`` as an ONNX file."""
    weights = np.random.default_rng(seed + 1).normal(size=(sent, len(CLASSES))).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["wire"], ["codes"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["codes", "step"], ["scaled"]),
        helper.make_node("Add", ["scaled", "low"], ["feature"]),
        helper.make_node("MatMul", ["feature", "weights"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("wire", TensorProto.UINT8, ["B", sent])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", len(CLASSES)])]
    return _file(nodes, inputs, outputs, {"weights": weights, **_scalars()})


def make(out: Path, seed: int = 0, name: str = "tiny", sent: int = SENT, attack: bytes | None = None) -> bundle.Bundle:
    """Write the bundle into ``out`` and return it as it is read back; other seeds make other pairs."""
    score = {"mean": 0.9, "ci95": [0.8, 1.0]}
    about: dict[str, Any] = {
        "splitveil": bundle.SCHEMA,
        "name": name,
        "image": {"dtype": "UINT8", "shape": [SIZE, SIZE, 1]},
        "draws": [{"name": "n0", "kind": "normal", "shape": [sent]}],
        "wire": {
            "dtype": "UINT8",
            "shape": [sent],
            "codec": "uint8",
            "bits_per_image": 8 * sent,
            "error_over_sigma": STEP / SIGMA / 12**0.5,
        },
        "outputs": [{"name": "logits", "dtype": "FP32", "shape": [len(CLASSES)]}],
        "classes": list(CLASSES),
        "measured": {
            "images": 100,
            "accuracy_torch": score,
            "accuracy_bundle": score,
            "difference": {"mean": 0.0, "ci95": [0.0, 0.0]},
            "codes_differ": 0.0,
        },
        "audit": None,
    }
    if attack is not None:
        error = {"mean": 0.04, "ci95": [0.01, 0.09]}
        linear = {"images": 50, "float32": error, "coded": error, "difference": error}
        about["measured"]["linear_mse"] = linear | {"graph_sha256": hashlib.sha256(attack).hexdigest()}
    encoder, tail = encoder_bytes(seed, sent=sent), tail_bytes(seed, sent)
    wire = cast("bundle.Wire", {**about, "pair": bundle.pair_of(encoder, tail, about)})
    bundle.write(out, encoder, tail, wire, {} if attack is None else {bundle.PICTURE: attack})
    return bundle.read(out)


def _scalars(**more: float) -> dict[str, np.ndarray]:
    return {key: np.float32(value) for key, value in {"low": LOW, "step": STEP, "sigma": SIGMA, **more}.items()}  # type: ignore[misc]


def _file(nodes: list, inputs: list, outputs: list, constants: dict[str, np.ndarray]) -> bytes:
    used = {name for node in nodes for name in node.input}
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, held)
    return onnx.helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10
    ).SerializeToString()
