"""The device's graph for phones: a program of ExecuTorch, which runs on Android and iOS without Python.

It takes one image and its random numbers, as the ONNX file does, and gives the same bytes. The app fills the random
numbers from the system's generator, as `wire.json` lists them. ExecuTorch has no operators that draw, and needs none.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data import Split
from ..errors import UserError
from ..randomness import stream
from .draws import Draw
from .graphs import DeviceGraph, quiet
from .verify import as_input, check_share, differing

FILE = "device/encoder.pte"
TRIED = 50
"""Test images whose wires are compared with PyTorch's."""
PACKAGE = "executorch"


class OneImage(nn.Module):
    """The device's graph with its draws as separate arguments.

    Args:
        graph: device's graph.
    """

    def __init__(self, graph: DeviceGraph):
        super().__init__()
        self.device_graph = graph  # "graph" is taken in what torch.export makes of it
        self.eval()

    def forward(self, image: Tensor, *numbers: Tensor) -> Tensor:
        """Return the coded wire of one image."""
        return self.device_graph(image, list(numbers))


def check_package() -> None:
    """Refuse to begin where ExecuTorch is missing.

    Raises:
        UserError: it is.
    """
    try:
        importlib.import_module(PACKAGE)
    except ImportError:
        raise UserError(f"--phone needs the package {PACKAGE}; pip install 'splitveil[phone]'") from None


def phone_bytes(graph: DeviceGraph, draws: Sequence[Draw], images: Split, seed: int) -> bytes:
    """Return the device's graph as an ExecuTorch program, after holding it against PyTorch.

    Convolutions and matrix products run by XNNPACK. The inputs are the image, uint8 (1, H, W, C), and the draws in the
    order of wire.json; the output is the wire, (1, n).

    Args:
        graph: device's graph.
        draws: of the graph.
        images: test images.
        seed: of the draws with which both are compared.

    Raises:
        UserError: the program makes other codes than ties explain, or ExecuTorch cannot express the graph.
    """
    lower = importlib.import_module("executorch.exir").to_edge_transform_and_lower
    partition = importlib.import_module("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
    image, numbers = _given(images, 0, draws, seed)
    try:
        with torch.no_grad(), quiet():
            program = torch.export.export(OneImage(graph), (image, *numbers))
            made = bytes(lower(program, partitioner=[partition()]).to_executorch().buffer)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0][:200]
        raise UserError(f"the encoder cannot be made a phone's program ({reason}); leave --phone out") from error
    _check(made, graph, draws, images, seed)
    return made


@torch.no_grad()
def _check(made: bytes, graph: DeviceGraph, draws: Sequence[Draw], images: Split, seed: int) -> None:
    runtime = importlib.import_module("executorch.runtime").Runtime.get()
    method = runtime.load_program(made).load_method("forward")
    differ = values = 0
    for place in range(min(TRIED, len(images))):
        image, numbers = _given(images, place, draws, seed)
        found = method.execute([image, *numbers])[0]
        expected = graph(image, list(numbers))
        differ += differing(graph.coder, found, expected)
        values += graph.coder.decode(expected).numel()
    check_share(differ, values, "on a phone from PyTorch's")


def _given(images: Split, place: int, draws: Sequence[Draw], seed: int) -> tuple[Tensor, list[Tensor]]:
    """Return one image and numbers for its draws."""
    rng = stream("cpu", seed, 6, place)
    return as_input(images.images[place : place + 1]), [draw.sample(1, rng) for draw in draws]
