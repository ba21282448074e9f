"""The two graphs as ONNX: images and draws to bytes on the device, bytes to logits in the cloud."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from ..defenses._codec import Coder
from ..errors import UserError
from .draws import Draw
from .halves import Receiver, Replayed, Sender
from .simplified import simplify

OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
PRIVATE = frozenset({"doc_string", "metadata_props", "producer_version"})
"""Fields in which the exporter writes the paths of source files, stack traces and versions."""


class DeviceGraph(nn.Module):
    """Images as uint8 (B, H, W, C), and the numbers of every draw, to the coded wire (B, n).

    Args:
        send: the device's half.
        draws: of ``send``.
        coder: of what it sends.
    """

    def __init__(self, send: Sender, draws: Sequence[Draw], coder: Coder):
        super().__init__()
        self.replayed, self.coder = Replayed(send, draws), coder
        self.eval()  # a wrapper in training mode would put all that it holds into it

    def forward(self, image: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        """Return the coded wire."""
        return self.coder.encode(self.replayed(image.permute(0, 3, 1, 2).float() / 255, numbers))


class CloudGraph(nn.Module):
    """The coded wire (B, n) to logits (B, classes).

    Args:
        receive: the cloud's half.
        coder: as on the device.
    """

    def __init__(self, receive: Receiver, coder: Coder):
        super().__init__()
        self.receive, self.coder = receive, coder
        self.eval()

    def forward(self, wire: Tensor) -> Tensor:
        """Return logits."""
        return self.receive(self.coder.decode(wire))


def check_packages() -> None:
    """Refuse to begin where the packages of the extra ``deploy`` are missing.

    Raises:
        UserError: one is missing.
    """
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(f"exporting needs the package {name}; pip install 'splitveil[deploy]'") from None


def device_bytes(graph: DeviceGraph, image: Tensor, draws: Sequence[Draw]) -> bytes:
    """Return the device's graph as an ONNX file: inputs ``image`` and the draws' names, output ``wire``.

    Args:
        graph: device's graph.
        image: at least two images, uint8 (B, H, W, C), for the shapes.
        draws: of the graph.
    """
    numbers = tuple(draw.sample(len(image), torch.Generator().manual_seed(0)) for draw in draws)
    return onnx_bytes(graph, (image, numbers), ["image", *(draw.name for draw in draws)], ["wire"])


def cloud_bytes(graph: CloudGraph, wire: Tensor) -> bytes:
    """Return the cloud's graph as an ONNX file: input ``wire``, output ``logits``.

    Args:
        graph: cloud's graph.
        wire: coded wires of at least two images, for the shapes.
    """
    return onnx_bytes(graph, (wire,), ["wire"], ["logits"])


def onnx_bytes(module: nn.Module, example: tuple[Any, ...], inputs: list[str], outputs: list[str]) -> bytes:
    """Return a module as an ONNX file that repeats byte for byte and names no path, user or host.

    Args:
        module: in evaluation mode.
        example: arguments for at least two images; their first axis is left free.
        inputs: names of the tensors in ``example``.
        outputs: names of what the module returns.

    Raises:
        UserError: torch or ONNX cannot express the module.
    """
    import onnx

    shapes = _pytree.tree_map(lambda _: {0: torch.export.Dim.DYNAMIC}, example)
    module.eval()
    try:
        with torch.no_grad(), quiet():
            program = torch.onnx.export(
                module,
                example,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
                optimize=False,
            )
            assert program is not None
            simplify(program.model)
        model = program.model_proto
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise UserError(f"the network cannot be exported to ONNX ({reason[:200]}); replace that operator") from error
    strip(model)
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise UserError(f"the exported graph is not valid ONNX ({str(error).partition(chr(10))[0]})") from error
    check_inputs(model, inputs)
    return model.SerializeToString(deterministic=True)


def check_inputs(model: Any, inputs: Sequence[str]) -> None:
    """Refuse a graph that draws, whose batch is fixed, or that has lost an input.

    Args:
        model: ONNX model.
        inputs: names that it must have.

    Raises:
        UserError: one of these.
    """
    names = [value.name for value in model.graph.input]
    if names != list(inputs):
        raise UserError(f"the exported graph has the inputs {names}; expected {list(inputs)}")
    if drawing := sorted(
        {node.op_type for node in model.graph.node if "Random" in node.op_type or "Bernoulli" in node.op_type}
    ):
        raise UserError(f"the exported graph draws by itself ({', '.join(drawing)}); draw from rng in on_wire")
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.shape.dim[0].HasField("dim_value"):
            raise UserError(
                f"the exported graph has {value.name} of a fixed number of images; use z.shape[0] instead of len(z)"
            )


def strip(message: Any) -> None:
    """Remove what the exporter says of itself and of the machine, in a protobuf message and all that it holds.

    Args:
        message: ONNX model, changed in place.
    """
    for field, value in message.ListFields():
        if field.name in PRIVATE:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                strip(part)


class Session:
    """An ONNX file that runs on one thread, where image i has the same answer in every batch.

    Args:
        model: content of the file.
    """

    def __init__(self, model: bytes):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the graph's first output.

        Args:
            inputs: tensors by name.
        """
        return self.all(inputs)[0]

    def all(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Return every output.

        Args:
            inputs: tensors by name.
        """
        given = {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()}
        return [torch.from_numpy(np.asarray(value)) for value in self._session.run(None, given)]


@contextlib.contextmanager
def quiet() -> Any:
    """Keep the exporter's own messages off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
