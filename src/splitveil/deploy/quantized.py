"""The tail in 8-bit integers: a quarter of the file, and less time where the processor multiplies them fast.

Static quantization (Jacob et al., CVPR 2018, arXiv 1712.05877) by onnxruntime: weights per output channel, activations
per tensor, whose ranges are those of coded wires of training images. The graph keeps float operators between pairs of
QuantizeLinear and DequantizeLinear, so that any ONNX runtime reads it; onnxruntime merges them into integer operators.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..statistics.intervals import Interval, binomial_ci, paired_hits
from ..storage.files import temporary
from .graphs import strip

TAILS = ("fp32", "int8")
IMAGES = 512
"""Most training images whose wires give the ranges of the activations."""
BATCH = 32
OPERATORS = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Add")


@dataclass(frozen=True)
class Cost:
    """What the int8 tail costs, on the same coded wires of test images as the float32 tail.

    Attributes:
        calibrated: number of training images whose wires gave the ranges.
        agreement: share of the images with the same answer.
        difference: accuracy, int8 − float32, paired.
    """

    calibrated: int
    agreement: Interval
    difference: Interval

    @classmethod
    def of(cls, calibrated: int, before: Tensor, after: Tensor, labels: Tensor) -> Cost:
        """Return the cost from the answers of both tails.

        Args:
            calibrated: see `Cost`.
            before: answers of the float32 tail, (N,).
            after: answers of the int8 tail, (N,).
            labels: right answers, (N,).

        >>> import torch
        >>> before, after = torch.tensor([0, 1, 2, 3]), torch.tensor([0, 1, 2, 2])
        >>> cost = Cost.of(512, before, after, torch.tensor([0, 1, 1, 3]))
        >>> cost.agreement.mean, cost.difference.mean
        (0.75, -0.25)
        """
        same = binomial_ci(int((before == after).sum()), len(labels))
        return cls(calibrated, same, paired_hits(after == labels, before == labels))

    def as_dict(self) -> dict[str, Any]:
        """Return the cost for wire.json."""
        return {
            "calibration_images": self.calibrated,
            "agreement": self.agreement.as_dict(),
            "difference": self.difference.as_dict(),
        }


def check_tail(name: str) -> None:
    """Refuse a form of the tail that does not exist.

    Args:
        name: as it was given.

    Raises:
        UserError: it is none.
    """
    if name not in TAILS:
        raise UserError(f"tail {name!r:.40}; expected one of: {', '.join(TAILS)}")


def int8(tail: bytes, wires: Tensor) -> bytes:
    """Return a tail in 8-bit integers, as an ONNX file that repeats byte for byte.

    Args:
        tail: content of the float32 ONNX file.
        wires: coded wires of training images, (N, n); the first `IMAGES` give the ranges of the activations.

    Raises:
        UserError: there is nothing in the tail that can be quantized, or no room for temporary files.
    """
    import onnx

    try:
        made = _quantized(tail, wires[:IMAGES])
    except OSError as error:
        raise temporary(error) from None
    if not any(node.op_type == "QuantizeLinear" for node in made.graph.node):
        raise UserError("the tail has no operator that int8 makes faster; export it with --tail fp32")
    strip(made)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def _quantized(tail: bytes, wires: Tensor) -> Any:
    """Return a tail in 8-bit integers, as an ONNX model."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    model = onnx.load_from_string(tail)
    constants = {one.name for one in model.graph.initializer}
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{place}"
    add_pre_process_metadata(model)  # the exporter has simplified the graph, which onnxruntime would ask for
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            str(out),
            _Reader(wires),  # type: ignore[arg-type]
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,  # weights of 7 bits: sums of pairs of products saturate on processors without VNNI
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            op_types_to_quantize=list(OPERATORS),
            nodes_to_exclude=[
                node.name for node in model.graph.node if node.op_type == "Add" and constants & set(node.input)
            ],  # the codec's grid
        )
        return onnx.load(out)


class _Reader:
    """Hand wires to onnxruntime in batches, once."""

    def __init__(self, wires: Tensor):
        self._batches: Iterator[np.ndarray] = (np.ascontiguousarray(part.numpy()) for part in wires.split(BATCH))

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch; None: there is none."""
        found = next(self._batches, None)
        return None if found is None else {"wire": found}

    def set_range(self, start_index: int, end_index: int) -> None:
        """Read all, whatever part is asked for: that is for data of many files."""
